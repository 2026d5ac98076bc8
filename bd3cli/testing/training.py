"""The cheap laws, which are checked before a run takes its first step.

Left out are ``compile`` (torch.compile takes up to a second) and ``inverse`` (a jump of p also breaks
``invariance``); the averages over masks are coarser than those of `bd3cli maskings check`, and ``tensors`` looks at the
CPU alone, where training draws its masks.
"""

from __future__ import annotations

from collections.abc import Callable

from bd3cli.errors import InputError
from bd3cli.maskings import get_masking
from bd3cli.recipes.settings import ObjectiveConfig
from bd3cli.schedules import NoiseSchedule, get_schedule
from bd3cli.testing import schedule as schedules
from bd3cli.testing import weight as weights
from bd3cli.testing.law import Law, run_laws
from bd3cli.testing.masking import QUICK, check_masking
from bd3cli.testing.schedule import check_schedule
from bd3cli.testing.tensors import Functions, tensors
from bd3cli.testing.weight import check_weight
from bd3cli.weights import LossWeight, get_weight

OF_SCHEDULES = {name for name, _ in schedules.LAWS} - {"compile", "inverse", "tensors"}
OF_WEIGHTS = {"finite", "positive", "product", "elementwise", "pickle"}
SETTING = "train.check_laws"

_lawful: set[tuple[object, ...]] = set()  # in this process, by specification and class


def require_lawful(objective: ObjectiveConfig, refuse: bool, notice: Callable[[str], None]) -> None:
    """Refuse, or tell of, a schedule, loss weight or masking that breaks a law.

    What passed is not looked at again by this process.

    Raises:
        InputError: one of them breaks a law, or cannot be made.
    """
    for text in broken_laws(objective):
        if refuse:
            raise InputError(f"{text} To train all the same: --set {SETTING}=false.")
        notice(f"{text} Training all the same, since {SETTING} is false.")


def broken_laws(objective: ObjectiveConfig) -> list[str]:
    """One sentence for each part of an objective that breaks a law: the first it breaks, and where to see all."""
    if not objective.traits.masks:
        return []
    masking, weight = get_masking(objective.masking), get_weight(objective.weight)
    found, beside = [], None
    if masking.uses_schedule:
        schedule = get_schedule(objective.schedule)
        found += _check("schedule", objective.schedule, schedule, lambda: _of_schedule(schedule))
        beside = None if found else schedule  # beside a broken schedule any weight looks broken
    found += _check("weight", objective.weight, weight, lambda: _of_weight(weight, beside), beside)
    found += _check("masking", objective.masking, masking, lambda: check_masking(masking, QUICK))
    return found


def _of_schedule(schedule: NoiseSchedule) -> list[Law]:
    return check_schedule(schedule, OF_SCHEDULES) + _on_cpu(schedules.functions(schedule))


def _of_weight(weight: LossWeight, schedule: NoiseSchedule | None) -> list[Law]:
    return check_weight(weight, schedule, OF_WEIGHTS) + _on_cpu(weights.functions(weight))


def _on_cpu(functions: Functions) -> list[Law]:
    return run_laws(functions, [("tensors", lambda each: tensors(each, ("cpu",)))])


def _check(kind: str, spec: str, subject: object, laws: Callable[[], list[Law]], beside: object = None) -> list[str]:
    """The sentence on a subject, if there is one; it may have been looked at before, `beside` the same schedule."""
    key = (kind, spec, type(subject), str(beside), type(beside))
    if key in _lawful:
        return []
    failed = [law for law in laws() if not law.ok]
    if not failed:
        _lawful.add(key)
        return []
    first, others = failed[0], len(failed) - 1
    more = f" ({others} more {'law is' if others == 1 else 'laws are'} broken)" if others else ""
    return [
        f"The {kind} {spec!r} breaks the law {first.law!r}{more}: {first.detail.rstrip('.')}. "
        f"See all with: bd3cli {kind}s check '{spec}'."
    ]
