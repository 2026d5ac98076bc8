"""The unweighted loss, the law checker for weights, and normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bd3cli.diffusion.combinations import weight_normaliser
from bd3cli.schedules import Noise, get_schedule
from bd3cli.testing import assert_laws, check_weight
from bd3cli.weights import LossWeight, get_weight


@dataclass(frozen=True)
class Naive(LossWeight):
    """e^(-lambda/2) through lambda: infinite when everything is masked."""

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return (-(alpha / (1 - alpha)).log() / 2).exp()


@dataclass(frozen=True)
class Negative(LossWeight):
    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return alpha - 0.5


@dataclass(frozen=True)
class Nothing(LossWeight):
    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return torch.zeros_like(alpha)


@dataclass(frozen=True)
class Disagrees(LossWeight):
    """The shortcut for the product is not the product."""

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return 1 - alpha

    def scaled(self, noise: Noise) -> Tensor:
        return torch.ones_like(noise.weight)


@dataclass(frozen=True)
class FirstBlockOnly(LossWeight):
    """Every block gets the weight of the batch's first, a published bug."""

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return torch.ones_like(alpha) * (1 - alpha.flatten()[:1].sum())


@dataclass(frozen=True)
class AlwaysDouble(LossWeight):
    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return 1 - alpha.double()


@dataclass(frozen=True)
class Unfinished(LossWeight):
    pass


@pytest.mark.parametrize(
    ("weight", "laws"),
    [
        (get_weight("none"), set()),
        (Naive(), {"finite", "product"}),
        (Negative(), {"finite"}),
        (Nothing(), {"positive"}),
        (Disagrees(), {"product"}),
        (FirstBlockOnly(), {"elementwise"}),
        (AlwaysDouble(), {"tensors"}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, LossWeight) else "",
)
def test_a_mistake_fails_its_laws_and_no_others(weight: LossWeight, laws: set[str]) -> None:
    assert {law.law for law in check_weight(weight) if not law.ok} == laws


def test_nothing_written_yet() -> None:
    laws = {law.law: law for law in check_weight(Unfinished())}
    assert "does not define weight" in laws["finite"].detail


def test_a_schedule_of_ones_own_is_tried_too() -> None:
    assert_laws(check_weight(get_weight("none"), get_schedule("cosine:eps=0.2")))


@pytest.mark.parametrize("schedule", ["loglinear", "square", "sqrt", "log", "cosine", "full"])
@pytest.mark.parametrize("clip", [None, (0.3, 0.8)])
def test_the_unweighted_loss_has_mean_weight_one(schedule: str, clip: tuple[float, float] | None) -> None:
    assert weight_normaliser(get_weight("none"), get_schedule(schedule), clip) == pytest.approx(1, abs=1e-12)


@dataclass(frozen=True)
class Masked(LossWeight):
    """w_hat = p: its mean over p in [a, b], each p weighing w p dt = dp, is (a + b) / 2."""

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return 1 - alpha


@pytest.mark.parametrize("schedule", ["loglinear", "square", "sqrt", "log", "cosine"])
@pytest.mark.parametrize("clip", [(0.0, 1.0), (0.3, 0.8), (0.0, 0.5)])
def test_the_mean_is_taken_over_mask_rates(schedule: str, clip: tuple[float, float]) -> None:
    noise = get_schedule(schedule)
    ends = noise.mask_prob(torch.tensor((max(clip[0], noise.t_min), clip[1]), dtype=torch.float64))
    assert weight_normaliser(Masked(), noise, clip) == pytest.approx(float(ends.mean()), rel=1e-6)


def test_counts_have_their_own_mean() -> None:
    assert weight_normaliser(Masked(), get_schedule("loglinear"), block_size=2) == pytest.approx(0.75)


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="its mean over the training masks is 0"):
        weight_normaliser(Nothing(), get_schedule("loglinear"))
