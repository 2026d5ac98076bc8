"""The law that matters most: the NELBO does not depend on the schedule.

For a model whose mean loss on a masked token is l(p) at mask rate p, the NELBO of one token is

    integral over t in [0, 1] of w(t) p(t) l(p(t)) dt  =  integral over p in [floor, 1] of l(p) dp,

because w p dt = p' dt = dp (divided by `sweeps` where p covers the interval several times). The right side
is known in closed form for the curves below; the left side is computed from `mask_prob` and `weight` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.schedules.base import NoiseSchedule
from bd3cli.schedules.quadrature import FINEST, Cells, refine

TOLERANCE = 1e-5
WHOLE = 0.999  # of the mask rates reached by some time
ROUGH = 1e-4  # tolerance where fewer are: the edges of what is left out are not known any better
SMALLEST_FALL = 1e-9  # of p from the end of one sweep to the beginning of the next


@dataclass(frozen=True)
class LossCurve:
    """Mean loss of a masked token as a function of the mask rate, and its antiderivative."""

    name: str
    loss: Callable[[Tensor], Tensor]
    antiderivative: Callable[[Tensor], Tensor]

    def whole(self, floor: float) -> float:
        """The curve's integral over [floor, 1]."""
        return float(self.antiderivative(torch.tensor([floor, 1.0], dtype=torch.float64)).diff())


CURVES = (
    LossCurve("l = 1", torch.ones_like, lambda p: p),
    LossCurve("l = 2p", lambda p: 2 * p, torch.square),
    LossCurve("l = exp(-40p)", lambda p: (-40 * p).exp(), lambda p: -(-40 * p).exp() / 40),
    LossCurve("l = exp(-40(1-p))", lambda p: (-40 * (1 - p)).exp(), lambda p: (-40 * (1 - p)).exp() / 40),
)


def nelbo(schedule: NoiseSchedule, curve: LossCurve, cells: Cells) -> float:
    """The schedule's NELBO under a loss curve, in nats a token, over the resolved `cells`."""
    t, dt = cells.nodes()
    noise = schedule.noise(t)
    p = noise.mask_prob
    wp = (noise.weight * p).masked_fill(p == 0, 0)  # w may be infinite where nothing is masked
    return float((wp * curve.loss(p) * dt).sum())


def closed_form(schedule: NoiseSchedule, curve: LossCurve, cells: Cells, falls: int) -> float:
    """What it must be: the curve's integral over [floor, 1], less the stretches no time resolves.

    Args:
        falls: how often a sweep ends and the next begins within those stretches.
    """
    whole = curve.whole(schedule.floor)
    missed = (curve.antiderivative(cells.p_high) - curve.antiderivative(cells.p_low))[cells.steep]
    return whole - (float(missed.sum()) + falls * whole) / schedule.sweeps


def falls_within(schedule: NoiseSchedule, cells: Cells) -> int:
    """How often p falls inside the cells that no time resolves, looked at from one floating-point number to the next.

    The edges of a cell do not tell: the next sweep may have risen above the last one's end by then.
    """
    found = 0
    if schedule.sweeps == 1:  # whatever falls there is rounding, and `monotone` looks at the rest
        return found
    for low, high in zip(cells.low[cells.steep], cells.high[cells.steep], strict=True):
        first, last = int(low.view(torch.int64)), int(high.view(torch.int64))
        step = max((last - first) // FINEST, 1)  # more than 1 only next to t = 0, at subnormal times
        bits = torch.arange(first, last + step, step).clamp(max=last)
        found += int((schedule.mask_prob(bits.view(torch.float64)).diff() < -SMALLEST_FALL).sum())
    return found


def invariance(schedule: NoiseSchedule) -> tuple[bool, str]:
    """Compare the two sides for every curve."""
    cells = refine(schedule)
    if schedule.only_block_size == 1:
        value = nelbo(schedule, CURVES[0], cells)
        return abs(value - 1) <= TOLERANCE, f"block size 1: the integral of w p is {value:.9g}; it must be 1"
    falls = falls_within(schedule, cells)
    worst, gap, text = CURVES[0], -1.0, ""
    for curve in CURVES:
        value, expected = nelbo(schedule, curve, cells), closed_form(schedule, curve, cells, falls)
        relative = abs(value - expected) / curve.whole(schedule.floor)
        if math.isnan(relative) or relative > gap:
            worst, gap = curve, math.inf if math.isnan(relative) else relative
            text = f"NELBO {value:.9g} against {expected:.9g} for {worst.name}"
    seen = closed_form(schedule, CURVES[0], cells, falls) / CURVES[0].whole(schedule.floor)
    if seen < WHOLE:
        text += f" ({1 - seen:.1%} of the mask rates lie between neighbouring float64 times: left out)"
    if not gap <= (TOLERANCE if seen >= WHOLE else ROUGH):
        return False, (
            f"{text}, {gap:.2g} off. The weight must be p'(t) / (sweeps p(t)), and p must reach every mask rate."
        )
    return True, f"{text}, {gap:.1g} off"
