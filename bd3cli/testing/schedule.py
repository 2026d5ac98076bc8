"""The laws of noise schedules.

Values of p, p' and w are those of float64 on the grid of `times`; "worst" is the point that comes closest
to breaking a law, or breaks it most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch
from torch import Tensor

from bd3cli.schedules.base import NoiseSchedule
from bd3cli.testing.grid import rates, times
from bd3cli.testing.invariance import invariance
from bd3cli.testing.law import Law, Laws, Outcome, run_laws
from bd3cli.testing.tensors import Functions, compiles, elementwise, pickles, tensors

EXACT = 1e-12
RELATIVE = 1e-9
PROGRESSES = (0.0, 0.25, 0.5, 0.75, 1.0)  # fractions of training that schedules that move are looked at


def check_schedule(schedule: NoiseSchedule, only: Collection[str] | None = None) -> list[Law]:
    """Check every law of a noise schedule; if it moves, at several stages of training.

    Args:
        only: names of the laws to check, for speed; all by default.

    Returns:
        One `Law` each: ``range``, ``endpoints``, ``monotone``, ``finite``, ``derivative``, ``weight``,
        ``inverse``, ``invariance``, ``elementwise``, ``tensors``, ``compile``, ``pickle``, ``progress``.
    """
    wanted = [law for law in LAWS if only is None or law[0] in only]
    merged = run_laws(schedule, wanted)
    for stage, laws in _stages(schedule):
        again = [law for law in laws if law in wanted]
        failed = {law.law: law for law in run_laws(stage, again) if not law.ok}
        merged = [
            dataclasses.replace(failed[law.law], detail=f"{failed[law.law].detail} (with {stage})")
            if law.ok and law.law in failed
            else law
            for law in merged
        ]
    return merged


def _stages(schedule: NoiseSchedule) -> list[tuple[NoiseSchedule, Laws[NoiseSchedule]]]:
    """What it becomes in training, with the laws to check again: on the way only those that look at single times."""
    try:
        stages = [schedule.at_progress(fraction) for fraction in PROGRESSES]
    except (Exception, SystemExit):  # reported by the law "progress"
        return []
    ends = (stages[0], stages[-1])
    distinct = [s for i, s in enumerate(stages) if s != schedule and s not in stages[:i]]
    return [(s, MATHEMATICAL if s in ends else POINTWISE) for s in distinct]


def in_range(schedule: NoiseSchedule) -> Outcome:
    t = times()
    p = schedule.mask_prob(t)
    outside = torch.maximum(-p, p - 1)
    i = int(torch.where(p.isnan(), torch.inf, outside).argmax())
    if p[i].isnan() or outside[i] > 0:
        return False, f"p({t[i]:.6g}) = {p[i]:.6g} is not a probability. Keep mask_prob(t) within [0, 1]."
    return True, f"p(t) lies in [{p.min():.6g}, {p.max():.6g}]"


def endpoints(schedule: NoiseSchedule) -> Outcome:
    zero, one = schedule.mask_prob(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    if not abs(zero - schedule.floor) <= EXACT:
        return False, (
            f"p(0) = {zero:.6g}, but the declared floor is {schedule.floor:g}. "
            f"Declare floor = {zero:.6g}, or make mask_prob(0) equal to the floor."
        )
    if not abs(one - 1) <= EXACT:
        return False, f"p(1) = {one:.9g}. Rescale mask_prob so that everything is masked at t = 1."
    return True, f"p(0) = {zero:.6g}, p(1) = {one:.9g}"


def monotone(schedule: NoiseSchedule) -> Outcome:
    t = torch.cat([torch.zeros(1, dtype=torch.float64), times()])
    p = schedule.mask_prob(t)
    step = p.diff()
    drops = int((step < -EXACT).sum())
    i = int(torch.where(step.isnan(), -torch.inf, step).argmin())
    if bool(step.isnan().any()) or drops > schedule.sweeps - 1:
        allowed = "" if schedule.sweeps == 1 else f" ({drops} drops, {schedule.sweeps} sweeps)"
        return False, (
            f"p falls from {p[i]:.6g} at t = {t[i]:.6g} to {p[i + 1]:.6g} at t = {t[i + 1]:.6g}{allowed}. "
            "Make mask_prob nondecreasing; a schedule monotone piece by piece declares `sweeps`."
        )
    return True, f"smallest step {step[step >= -EXACT].min():.3g} of p between neighbouring times"


def finite(schedule: NoiseSchedule) -> Outcome:
    t = times()
    t = t[schedule.mask_prob(t) > 0]  # where nothing is masked the weight may be infinite
    noise = schedule.noise(t)
    for name, values in (("rate", noise.rate), ("weight", noise.weight)):
        bad = ~torch.isfinite(values) | (values < 0)
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            return False, (
                f"{name}({t[i]:.9g}) = {values[i]:.6g}. Write {name} so that it is finite and not negative "
                "for every t in (0, 1], for example in log space or with a closed form."
            )
    i = int(values.argmax())
    return True, f"largest weight {values[i]:.6g} at t = {t[i]:.6g}"


def derivative(schedule: NoiseSchedule) -> Outcome:
    t = times()
    t = t[t < 1]
    rate = schedule.rate(t)
    automatic = NoiseSchedule.rate(schedule, t)
    numeric, error = finite_difference(schedule, t)
    visible = automatic.isfinite() & (automatic.abs() < 1e12)
    gap_automatic = ((rate - automatic).abs() / (automatic.abs() + 1e-6)).masked_fill(~visible, 0)
    i = int(gap_automatic.argmax())
    if not bool(gap_automatic[i] <= 1e-6):
        return False, (
            f"rate({t[i]:.6g}) = {rate[i]:.9g}, but differentiating mask_prob gives {automatic[i]:.9g}. "
            "Correct rate(t), or leave it out: it is then derived from mask_prob."
        )
    gap_numeric = (rate - numeric).abs() - error
    relative = gap_numeric / (rate.abs() + 1e-6)
    j = int(relative.argmax())
    if not bool(relative[j] <= 1e-5):
        return False, (
            f"rate({t[j]:.6g}) = {rate[j]:.9g}, but finite differences of mask_prob give {numeric[j]:.9g}. "
            "Part of mask_prob is invisible to automatic differentiation: write rate(t)."
        )
    return True, f"largest relative gap {gap_automatic[i]:.2g} at t = {t[i]:.6g}"


def finite_difference(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """p'(t) by fourth-order central differences, and a bound on its error, both the shape of `t`."""
    # Two step sizes tell how far the difference itself can be trusted, for instance next to a kink.
    coarse, fine = (_central(schedule, t, torch.minimum(t, 1 - t) * h) for h in (2e-3, 1e-3))
    width = torch.minimum(t, 1 - t) * 1e-3
    rounding = 8 * torch.finfo(torch.float64).eps * (schedule.mask_prob(t) + t / width * fine.abs() * width)
    return fine, 20 * (fine - coarse).abs() + rounding / width


def _central(schedule: NoiseSchedule, t: Tensor, h: Tensor) -> Tensor:
    p = schedule.mask_prob
    return (8 * (p(t + h) - p(t - h)) - (p(t + 2 * h) - p(t - 2 * h))) / (12 * h)


def weight(schedule: NoiseSchedule) -> Outcome:
    t = times()
    noise = schedule.noise(t)
    w, p = noise.weight, noise.mask_prob
    if schedule.only_block_size == 1:
        # The loss of a single token does not depend on p: only the mean of w p matters.
        gap = (w * p - 1).abs()
        i = int(gap.argmax())
        text = f"block size 1: w p = {(w * p)[i]:.9g} at t = {t[i]:.6g}; it must be 1"
        return bool(gap[i] <= RELATIVE), text
    expected = noise.rate / (schedule.sweeps * p)
    comparable = expected.isfinite() & (p > 0)
    gap = ((w - expected).abs() / (expected.abs() + 1e-300)).masked_fill(~comparable, 0)
    i = int(torch.where(gap.isnan(), torch.inf, gap).argmax())
    if not bool(gap[i] <= RELATIVE):
        formula = "p'/p" if schedule.sweeps == 1 else f"p'/({schedule.sweeps} p)"
        return False, (
            f"weight({t[i]:.6g}) = {w[i]:.9g}, but {formula} = {expected[i]:.9g}. "
            "Leave weight(t) out, or make it equal to p'(t) / (sweeps p(t))."
        )
    return True, f"largest relative gap {gap[i]:.2g} at t = {t[i]:.6g}"


def inverse(schedule: NoiseSchedule) -> Outcome:
    if schedule.floor >= 1:
        return True, "p is 1 throughout"
    p = rates(schedule.floor)
    t = schedule.time_at(p)
    back = schedule.mask_prob(t)
    # A steep stretch may fit between two neighbouring times: then p cannot come back more exactly.
    before = schedule.mask_prob(torch.nextafter(t, torch.zeros_like(t)))
    steep = (schedule.rate(t).nan_to_num(posinf=1e300) >= 1e6) & (before <= p)
    gap = (back - p).abs().masked_fill(steep, 0)
    i = int(torch.where(gap.isnan(), torch.inf, gap).argmax())
    if not bool(gap[i] <= RELATIVE):
        return False, (
            f"no time has mask probability {p[i]:.6g}: p jumps from {before[i]:.6g} to {back[i]:.6g} "
            f"at t = {t[i]:.6g}. Make mask_prob continuous, so that every mask rate is trained."
        )
    return True, f"p(t(p)) differs from p by at most {gap[i]:.2g}, at p = {p[i]:.6g}"


def progress(schedule: NoiseSchedule) -> Outcome:
    for fraction in PROGRESSES:
        stage: object = schedule.at_progress(fraction)
        if not isinstance(stage, NoiseSchedule):
            return False, f"at_progress({fraction}) returns {stage!r}. Return a schedule (dataclasses.replace)."
        if stage != schedule.at_progress(fraction):
            return False, f"at_progress({fraction}) differs from call to call. Make it a pure function."
    if all(schedule.at_progress(fraction) == schedule for fraction in PROGRESSES):
        return True, "does not move during training"
    return True, f"moves to {schedule.at_progress(1.0)}"


def functions(schedule: NoiseSchedule) -> Functions:
    return {name: getattr(schedule, name) for name in ("mask_prob", "rate", "weight")}


POINTWISE: Laws[NoiseSchedule] = (
    ("range", in_range),
    ("endpoints", endpoints),
    ("monotone", monotone),
    ("finite", finite),
    ("derivative", derivative),
    ("weight", weight),
)
MATHEMATICAL = (*POINTWISE, ("inverse", inverse), ("invariance", invariance))
LAWS = (
    *MATHEMATICAL,
    ("elementwise", lambda s: elementwise(functions(s))),
    ("tensors", lambda s: tensors(functions(s))),
    ("compile", lambda s: compiles({"mask_prob": s.mask_prob, "weight": s.weight})),
    ("pickle", pickles),
    ("progress", progress),
)
