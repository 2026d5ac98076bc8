"""The constant that gives a loss weight mean 1, so that the learning rate keeps its meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bd3cli.errors import InputError
from bd3cli.weights.base import LossWeight

if TYPE_CHECKING:
    from bd3cli.schedules import NoiseSchedule


def weight_normaliser(
    weight: LossWeight,
    schedule: NoiseSchedule,
    clip: tuple[float, float] | None = None,
    block_size: int | None = None,
) -> float:
    """Mean of w_hat over the masked tokens of training, each counted with its NELBO weight.

    Divide the loss weight by it. For masks drawn by time this is the integral of w_hat w p dt over that of
    w p dt, t in the interval that training draws from; the mean is deterministic.

    Args:
        block_size: for maskings that draw a count k uniform in 1..block_size and no time: the mean over k of
            w_hat at alpha = 1 - k / block_size. `schedule` and `clip` then play no part.

    Raises:
        InputError: when the mean is zero or not a number.
    """
    mean = _over_counts(weight, block_size) if block_size is not None else _over_times(weight, schedule, clip)
    if not 0 < mean < float("inf"):
        raise InputError(
            f"loss weight {weight} cannot be normalised: its mean over the training masks is {mean:g}. "
            "Choose another weight or clip, or turn objective.normalise_weight off."
        )
    return mean


def _over_times(weight: LossWeight, schedule: NoiseSchedule, clip: tuple[float, float] | None) -> float:
    from bd3cli.schedules.clip import time_interval
    from bd3cli.schedules.quadrature import refine

    t, dt = refine(schedule, *time_interval(schedule, clip)).nodes()
    p, w = schedule.mask_prob(t), schedule.weight(t)
    scaled = weight.scaled(w, 1 - p, -schedule.rate(t))
    inside = p > 0  # nothing is masked, and w may be infinite, where p = 0
    return float((scaled * p * dt)[inside].sum() / (w * p * dt)[inside].sum())


def _over_counts(weight: LossWeight, block_size: int) -> float:
    p = torch.arange(1, block_size + 1, dtype=torch.float64) / block_size
    return float((weight.scaled(1 / p, 1 - p, -torch.ones_like(p)) * p).mean())
