"""The curves of schedules and loss weights as numbers, apart from how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bd3cli.schedules.base import NoiseSchedule
from bd3cli.weights.base import LossWeight

if TYPE_CHECKING:
    from torch import Tensor

POINTS = 241
BINS = 40


@dataclass(frozen=True)
class Curve:
    """One named line."""

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Panel:
    """Several curves over one pair of axes."""

    title: str
    x_label: str
    y_label: str
    curves: list[Curve]
    logarithmic: bool = False
    marked: bool = False  # points are few and measured, not read off a function
    x_range: tuple[float, float] | None = None  # of a picture whose panels share their x axis


def schedule_panels(schedules: Mapping[str, NoiseSchedule]) -> list[Panel]:
    """Mask probability, NELBO weight and distribution of mask rates of some named schedules."""
    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    inner = t[1:]  # the weight may be infinite at t = 0

    probabilities = [_curve(name, t, s.mask_prob(t)) for name, s in schedules.items()]
    weights = [_curve(name, inner, s.weight(inner)) for name, s in schedules.items()]
    densities = [_mask_rates(name, s) for name, s in schedules.items()]
    return [
        Panel("mask probability", "t", "p(t)", probabilities),
        Panel("NELBO weight", "t", "w(t)", weights, logarithmic=True),
        Panel("where training spends its time", "mask rate p", "share of draws per unit of p", densities),
    ]


def weight_panels(weights: Mapping[str, LossWeight], schedule: NoiseSchedule) -> list[Panel]:
    """Each weight, and its product with the NELBO weight, against the mask rate under `schedule`."""
    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)[1:]
    noise = schedule.noise(t)
    p = noise.mask_prob
    factors = [_curve(n, p, x.weight(noise.alpha, noise.dalpha_dt)) for n, x in weights.items()]
    products = [_curve(n, p, x.scaled(noise) * p) for n, x in weights.items()]
    return [
        Panel("loss weight", "mask rate p", "w_hat", factors),
        Panel("weight of a token's loss in an average batch", "mask rate p", "w w_hat p", products),
    ]


def _curve(name: str, x: Tensor, y: Tensor) -> Curve:
    return Curve(name, x.tolist(), y.tolist())


def _mask_rates(name: str, schedule: NoiseSchedule) -> Curve:
    """Histogram of p(t) for t uniform, as a density over p."""
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    counts = torch.histc(schedule.mask_prob(t), bins=BINS, min=0, max=1)
    middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
    return _curve(name, middles, counts / len(t) * BINS)
