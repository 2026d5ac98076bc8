"""Which recipe a resumed run has: its own, but for settings that do not change what is being trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bd3cli.errors import InputError
from bd3cli.plugins import require_used
from bd3cli.resolve import Resolved, layered
from bd3cli.runs import read_recipe
from bd3cli.training.record import RunDirectory

CHANGEABLE = frozenset(
    {
        "train.steps",
        "train.log_every",
        "train.validate_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.device",
        "train.attention",
        "train.compile",
        "train.parallel",
        "train.check_memory",
        "train.check_laws",
        "train.tracking",
        "data.workers",
    }
)


def resume_recipe(
    out: Path | None, recipe: str | None, options: Mapping[str, tuple[Any, str]], overrides: Sequence[str]
) -> Resolved:
    """The recipe recorded in `out`, with the given options on top.

    Raises:
        InputError: nothing to resume, or an option that would make it another run.
    """
    if out is None:
        raise InputError("--resume needs to know which run: add --out RUN.")
    if recipe is not None:
        raise InputError(f"--resume uses the recipe recorded in {out}; leave out {recipe!r}.")
    record = RunDirectory(out).read_record()
    if record.get("status") == "imported":
        raise InputError(
            f"{out} was imported: it has no optimizer to go on with. Start from it: bd3cli finetune {out}."
        )
    require_used(record.get("uses", {}), str(out))
    recorded = read_recipe(out)
    resolved = layered(recorded, dict(record.get("sources", {})), options, overrides)
    before = Resolved(recorded, {}).values()
    changed = [key for key, value in resolved.values().items() if value != before[key] and key not in CHANGEABLE]
    if changed:
        listed = ", ".join(f"{key} ({before[key]!r} -> {resolved.values()[key]!r})" for key in changed)
        raise InputError(
            f"A resumed run keeps its recipe; these would change it: {listed}. Leave them out, or start a new run."
        )
    return resolved
