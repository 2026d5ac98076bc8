"""Schedules, clips and weights that cannot be trained are refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bd3cli.diffusion.combinations import require_trainable, require_trainable_counts
from bd3cli.errors import InputError
from bd3cli.schedules import NoiseSchedule, get_schedule
from bd3cli.schedules.clip import require_interval, time_interval
from bd3cli.weights import LossWeight, get_weight


@dataclass(frozen=True)
class Late(NoiseSchedule):
    """Nothing is masked before t = 1/2."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return (2 * t - 1).clamp_min(0)


@dataclass(frozen=True)
class Undefined(NoiseSchedule):
    """No weight beyond t = 0.9."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return t.clone()

    def weight(self, t: Tensor) -> Tensor:
        return (0.9 - t).sqrt()


@dataclass(frozen=True)
class Unmasked(LossWeight):
    """Zero when everything is masked."""

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return alpha


@pytest.mark.parametrize("clip", [(0.5, 0.5), (0.8, 0.3), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_no_interval(clip: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="is not an interval"):
        require_interval(clip)
    with pytest.raises(InputError, match="0 <= beta < omega <= 1"):
        require_trainable(get_schedule("loglinear"), get_weight("none"), clip)


def test_a_clip_from_zero_keeps_away_from_infinite_variance() -> None:
    loglinear, square = get_schedule("loglinear"), get_schedule("square")
    assert time_interval(loglinear, None) == (1e-3, 1.0)
    assert time_interval(loglinear, (0.0, 0.5)) == (1e-3, 0.5)
    assert time_interval(loglinear, (0.3, 0.8)) == (0.3, 0.8)
    assert time_interval(loglinear, (0.0, 1e-4)) == (0.0, 1e-4)
    assert time_interval(square, (0.0, 0.5)) == (0.0, 0.5)


def test_nothing_masked() -> None:
    with pytest.raises(InputError, match=r"masks nothing for t in \[0, 0.4\]. Move objective.clip to later"):
        require_trainable(Late(), get_weight("none"), (0.0, 0.4))
    require_trainable(Late(), get_weight("none"), (0.0, 0.6))


def test_weight_undefined_inside_the_clip_only() -> None:
    with pytest.raises(InputError, match=r"is nan at t = 0.901"):
        require_trainable(Undefined(), get_weight("none"))
    require_trainable(Undefined(), get_weight("none"), (0.3, 0.8))


def test_weight_that_vanishes() -> None:
    with pytest.raises(InputError, match="nothing would be learnt"):
        require_trainable(get_schedule("full"), Unmasked())
    with pytest.raises(InputError, match="cannot be used at block size 1"):
        require_trainable_counts(Unmasked(), 1)
    require_trainable_counts(Unmasked(), 2)


@pytest.mark.parametrize("schedule", ["loglinear", "square", "sqrt", "log", "cosine", "full"])
@pytest.mark.parametrize("clip", [None, (0.0, 0.5), (0.3, 0.8), (0.5, 1.0)])
def test_ordinary_combinations_are_accepted(schedule: str, clip: tuple[float, float] | None) -> None:
    require_trainable(get_schedule(schedule), get_weight("none"), clip)


def test_counts_accept_every_ordinary_weight() -> None:
    for size in (1, 4, 128):
        require_trainable_counts(get_weight("none"), size)
    assert torch.get_default_dtype() == torch.float32
