"""The law checker itself: each kind of mistake fails the laws it breaks, and no others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bd3cli.parameters import parameter
from bd3cli.schedules import NoiseSchedule
from bd3cli.schedules.builtin import Cosine, LogLinear
from bd3cli.schedules.quadrature import refine
from bd3cli.testing import Law, assert_laws, check_schedule


@dataclass(frozen=True)
class UpstreamCosine(Cosine):
    """The published code's weight: a second eps in the denominator."""

    def weight(self, t: Tensor) -> Tensor:
        return self.rate(t) / (self.mask_prob(t) + self.eps)


@dataclass(frozen=True)
class Unhalved(NoiseSchedule):
    """Two sweeps declared, but the weight is that of one."""

    sweeps: ClassVar[int] = 2

    def mask_prob(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, 2 * t, 2 * t - 1)

    def weight(self, t: Tensor) -> Tensor:
        return self.rate(t) / self.mask_prob(t)


@dataclass(frozen=True)
class Halved(Unhalved):
    """The same, correct."""

    def weight(self, t: Tensor) -> Tensor:
        return NoiseSchedule.weight(self, t)


@dataclass(frozen=True)
class Undeclared(Unhalved):
    """Two sweeps, one declared."""

    sweeps: ClassVar[int] = 1


@dataclass(frozen=True)
class StopsShort(NoiseSchedule):
    def mask_prob(self, t: Tensor) -> Tensor:
        return 0.9 * t


@dataclass(frozen=True)
class StartsHigh(NoiseSchedule):
    """p(0) = 0.1, floor not declared."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return 0.1 + 0.9 * t


@dataclass(frozen=True)
class Overshoots(NoiseSchedule):
    def mask_prob(self, t: Tensor) -> Tensor:
        return t + 0.4 * torch.sin(math.pi * t)


@dataclass(frozen=True)
class Wavers(NoiseSchedule):
    def mask_prob(self, t: Tensor) -> Tensor:
        return t + 0.2 * torch.sin(2 * math.pi * t)


@dataclass(frozen=True)
class Jumps(NoiseSchedule):
    """Mask rates between 0.3 and 0.7 are never trained."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, 0.6 * t, 0.4 + 0.6 * t)


@dataclass(frozen=True)
class WrongRate(NoiseSchedule):
    def mask_prob(self, t: Tensor) -> Tensor:
        return t**2

    def rate(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class HiddenFromAutograd(NoiseSchedule):
    """Half of p is detached, so automatic differentiation misses it."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return (t + t.detach().square()) / 2


@dataclass(frozen=True)
class Infinite(NoiseSchedule):
    """Right, but the weight overflows far from t = 0."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return t

    def weight(self, t: Tensor) -> Tensor:
        return torch.where(t > 0.99, torch.inf, 1 / t)


@dataclass(frozen=True)
class NotANumber(NoiseSchedule):
    def mask_prob(self, t: Tensor) -> Tensor:
        return torch.where(t > 0.9, torch.nan, t)

    def rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class AlwaysDouble(NoiseSchedule):
    def mask_prob(self, t: Tensor) -> Tensor:
        return t.double().clone()


@dataclass(frozen=True)
class InPlace(NoiseSchedule):
    def mask_prob(self, t: Tensor) -> Tensor:
        return t.clone()

    def rate(self, t: Tensor) -> Tensor:
        return t.fill_(1) if t.dtype == torch.bfloat16 else torch.ones_like(t)


@dataclass(frozen=True)
class FirstBlockOnly(NoiseSchedule):
    """The weight of a batch is that of its first entry."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return t**2

    def weight(self, t: Tensor) -> Tensor:
        many = t.numel() == 6
        return torch.full_like(t, 2 / float(t.flatten()[0])) if many else 2 / t


@dataclass(frozen=True)
class Branches(NoiseSchedule):
    """Python control flow on values cannot be compiled into one graph."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return t.clone() if t.sum() >= 0 else t

    def rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Unpicklable(NoiseSchedule):
    function: Callable[[Any], Any] = lambda t: t**2

    def mask_prob(self, t: Tensor) -> Tensor:
        return self.function(t)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ForgetsItself(NoiseSchedule):
    def mask_prob(self, t: Tensor) -> Tensor:
        return t.clone()

    def at_progress(self, fraction: float) -> Any:
        return None


@dataclass(frozen=True)
class SpoiledLater(NoiseSchedule):
    """Right at the start of training, wrong at its end."""

    top: float = 1.0

    def mask_prob(self, t: Tensor) -> Tensor:
        return t * self.top

    def at_progress(self, fraction: float) -> SpoiledLater:
        return SpoiledLater(1 - 0.2 * fraction)


@dataclass(frozen=True)
class Raises(LogLinear):
    def weight(self, t: Tensor) -> Tensor:
        raise ZeroDivisionError("no such number")


@dataclass(frozen=True)
class Unfinished(NoiseSchedule):
    pass


def failures(schedule: NoiseSchedule) -> set[str]:
    return {law.law for law in check_schedule(schedule) if not law.ok}


@pytest.mark.parametrize(
    ("schedule", "laws"),
    [
        (UpstreamCosine(), {"weight", "invariance"}),
        (Unhalved(), {"weight", "invariance"}),
        (Halved(), set()),
        (Undeclared(), {"monotone", "invariance"}),
        (StopsShort(), {"endpoints", "inverse", "invariance"}),
        (StartsHigh(), {"endpoints", "inverse", "invariance"}),
        (Overshoots(), {"range", "monotone", "finite"}),
        (Wavers(), {"monotone", "finite"}),
        (Jumps(), {"inverse", "invariance"}),
        (WrongRate(), {"derivative", "invariance"}),
        (HiddenFromAutograd(), {"derivative", "invariance"}),
        (Infinite(), {"finite", "weight", "invariance"}),
        (AlwaysDouble(), {"tensors"}),
        (InPlace(), {"tensors"}),
        (Unpicklable(), {"pickle"}),
        (ForgetsItself(), {"progress"}),
        (SpoiledLater(), {"endpoints", "inverse", "invariance"}),
        (Raises(), {"finite", "weight", "invariance", "elementwise", "tensors", "compile"}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, NoiseSchedule) else "",
)
def test_a_mistake_fails_its_laws_and_no_others(schedule: NoiseSchedule, laws: set[str]) -> None:
    assert failures(schedule) == laws


@pytest.mark.parametrize(
    ("schedule", "law"), [(NotANumber(), "range"), (FirstBlockOnly(), "elementwise"), (Branches(), "compile")]
)
def test_a_mistake_is_noticed(schedule: NoiseSchedule, law: str) -> None:
    assert law in failures(schedule)


def test_nothing_written_yet() -> None:
    laws = {law.law: law for law in check_schedule(Unfinished())}
    assert "does not define mask_prob" in laws["range"].detail


def test_a_failure_says_what_to_fix() -> None:
    laws = {law.law: law for law in check_schedule(UpstreamCosine())}
    assert "Leave weight(t) out" in laws["weight"].detail
    assert "weight(1e-09) = " in laws["weight"].detail
    assert "p'(t) / (sweeps p(t))" in laws["invariance"].detail
    assert "Declare floor = 0.1" in {law.law: law for law in check_schedule(StartsHigh())}["endpoints"].detail


def test_assert_laws_lists_the_failures() -> None:
    with pytest.raises(AssertionError, match=r"(?s)b: bad.*c: worse"):
        assert_laws([Law("a", True, "fine"), Law("b", False, "bad"), Law("c", False, "worse")])
    assert_laws([Law("a", True, "fine")])


@dataclass(frozen=True)
class Steep(NoiseSchedule):
    """p = t^exponent, concentrated near t = 1 for large exponents."""

    exponent: float = parameter(1.0, "any")

    def mask_prob(self, t: Tensor) -> Tensor:
        return t**self.exponent


@pytest.mark.parametrize("exponent", [0.06, 0.5, 1.0, 30.0, 1000.0])
def test_cells_follow_steep_schedules(exponent: float) -> None:
    cells = refine(Steep(exponent))
    assert bool(cells.resolved.all())
    assert float((cells.p_high - cells.p_low).abs().max()) < 0.01
    assert float(cells.low[0]) == 0
    assert float(cells.high[-1]) == 1
    torch.testing.assert_close(cells.low[1:], cells.high[:-1], rtol=0, atol=0)
    assert "invariance" not in failures(Steep(exponent))
