"""The laws of loss weights."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from bd3cli.schedules.base import NoiseSchedule
from bd3cli.schedules.builtin import Cosine, LogLinear, Square, SquareRoot
from bd3cli.schedules.noise import Noise
from bd3cli.testing.grid import times
from bd3cli.testing.law import Law, Outcome, run_laws
from bd3cli.testing.tensors import compiles, elementwise, pickles, tensors
from bd3cli.weights.base import LossWeight

SCHEDULES: tuple[NoiseSchedule, ...] = (LogLinear(), Square(), SquareRoot(), Cosine())
RELATIVE = 1e-6


def check_weight(
    weight: LossWeight, schedule: NoiseSchedule | None = None, only: Collection[str] | None = None
) -> list[Law]:
    """Check every law of a loss weight.

    Args:
        schedule: also try its products under this schedule, beside a few of the built-in ones.
        only: names of the laws to check, for speed; all by default.

    Returns:
        One `Law` each: ``finite``, ``positive``, ``product``, ``elementwise``, ``tensors``, ``compile``,
        ``pickle``.
    """
    schedules = (*SCHEDULES, schedule) if schedule is not None else SCHEDULES
    laws = (*LAWS[:2], ("product", lambda w: product(w, schedules)), *LAWS[2:])
    return run_laws(weight, [law for law in laws if only is None or law[0] in only])


def levels() -> Noise:
    """[A] float64 noise of slope 1 with alpha from 0 to 1, both included."""
    ends = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    return Noise.linear(torch.cat([ends[0], times().flip(0), ends[1]]))


def finite(weight: LossWeight) -> Outcome:
    """w_hat is a finite, nonnegative number for every alpha in [0, 1]."""
    noise = levels()
    alpha, w = noise.alpha, weight.weight(noise.alpha, noise.dalpha_dt)
    bad = ~torch.isfinite(w) | (w < 0)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        return False, (
            f"weight = {w[i]:.6g} at alpha = {alpha[i]:.9g}. Write it in terms of alpha, or in log space, so "
            "that it is finite and not negative from alpha = 0 (lambda = -inf) to alpha = 1."
        )
    i = int(w.argmax())
    return True, f"largest value {w[i]:.6g} at alpha = {alpha[i]:.6g}"


def positive(weight: LossWeight) -> Outcome:
    """Some mask rate is trained on."""
    noise = levels()
    w = weight.weight(noise.alpha, noise.dalpha_dt)
    share = float((w > 0).double().mean())
    remedy = "" if share else ". Nothing would be trained."
    return share > 0, f"positive at {share:.0%} of the points{remedy}"


def product(weight: LossWeight, schedules: tuple[NoiseSchedule, ...]) -> Outcome:
    """`scaled` is w times w_hat, and finite for every t in (0, 1]."""
    worst, where = 0.0, "everywhere"
    for schedule in schedules:
        t = times()
        noise = schedule.noise(t)
        scaled = weight.scaled(noise)
        if not bool(torch.isfinite(scaled).all()):
            i = int((~torch.isfinite(scaled)).nonzero()[0])
            return False, (
                f"w w_hat = {scaled[i]:.6g} at t = {t[i]:.9g} under {schedule}. Override scaled(...) with a "
                "form of the product that is finite."
            )
        direct = noise.weight * weight.weight(noise.alpha, noise.dalpha_dt)
        # Close to alpha = 1 the difference 1 - alpha has few digits, whichever form is used.
        comparable = direct.isfinite() & (noise.alpha < 1 - 1e-6)
        gap = ((scaled - direct).abs() / (direct.abs() + 1e-300)).masked_fill(~comparable, 0)
        i = int(gap.argmax())
        if not bool(gap[i] <= RELATIVE):
            return False, (
                f"scaled(...) = {scaled[i]:.9g} at t = {t[i]:.6g} under {schedule}, but the NELBO weight "
                f"times weight(...) is {direct[i]:.9g}. Make the two agree."
            )
        if float(gap[i]) > worst:
            worst, where = float(gap[i]), f"at t = {t[i]:.6g} under {schedule}"
    return True, f"largest relative gap {worst:.2g} {where}"


def functions(weight: LossWeight) -> dict[str, Callable[[Tensor], Tensor]]:
    """Of the mask probability, with a slope that differs from entry to entry."""

    def factor(p: Tensor) -> Tensor:
        noise = Noise(p, p.reciprocal(), p.reciprocal())
        return weight.weight(noise.alpha, noise.dalpha_dt)

    return {"weight": factor, "scaled": lambda p: weight.scaled(Noise(p, p.reciprocal(), p.reciprocal()))}


LAWS = (
    ("finite", finite),
    ("positive", positive),
    ("elementwise", lambda w: elementwise(functions(w))),
    ("tensors", lambda w: tensors(functions(w))),
    ("compile", lambda w: compiles(functions(w))),
    ("pickle", pickles),
)
