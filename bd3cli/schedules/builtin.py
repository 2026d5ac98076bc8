"""The paper's schedules (Arriola et al. 2025, section 5.3 and appendix)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.parameters import parameter
from bd3cli.schedules.base import NoiseSchedule


@dataclass(frozen=True)
class LogLinear(NoiseSchedule):
    """p = t: the linear schedule, log-linear in the noise level sigma = -log(1 - p)."""

    t_min = 1e-3

    def mask_prob(self, t: Tensor) -> Tensor:
        return t.clone()

    def rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Square(NoiseSchedule):
    """p = t^2: more time at low mask rates."""

    def mask_prob(self, t: Tensor) -> Tensor:
        return t.square()

    def rate(self, t: Tensor) -> Tensor:
        return 2 * t

    def weight(self, t: Tensor) -> Tensor:
        return 2 / t  # not 2t / t^2, which is 0/0 once t^2 underflows


@dataclass(frozen=True)
class SquareRoot(NoiseSchedule):
    """p = sqrt(t): more time at high mask rates."""

    t_min = 1e-3

    def mask_prob(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def rate(self, t: Tensor) -> Tensor:
        return 0.5 * t.rsqrt()

    def weight(self, t: Tensor) -> Tensor:
        return 0.5 / t


@dataclass(frozen=True)
class Logarithmic(NoiseSchedule):
    """p = log(1 + t) / log 2."""

    t_min = 1e-3

    def mask_prob(self, t: Tensor) -> Tensor:
        return t.log1p() / math.log(2)

    def rate(self, t: Tensor) -> Tensor:
        return 1 / ((1 + t) * math.log(2))


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """p = 1 - (1 - eps) cos(pi t / 2): starts at p(0) = eps.

    The weight is exactly p'/p; the published code adds a second eps to its denominator, which breaks that.
    """

    eps: float = parameter(1e-3, "mask probability at t = 0", low=0.0, high=0.9)

    @property
    def floor(self) -> float:  # type: ignore[override]
        return self.eps

    def mask_prob(self, t: Tensor) -> Tensor:
        # 1 - cos(x) = 2 sin^2(x/2) keeps its digits near t = 0
        return self.eps + (1 - self.eps) * 2 * torch.sin(math.pi / 4 * t).square()

    def rate(self, t: Tensor) -> Tensor:
        return (1 - self.eps) * (math.pi / 2) * torch.sin(math.pi / 2 * t)


@dataclass(frozen=True)
class Full(NoiseSchedule):
    """Everything masked, weight 1: the tuned schedule for block size 1, where the loss is exactly AR's NLL.

    A declared exception to w = p'/p, and wrong for larger blocks, which refuse it.
    """

    floor = 1.0
    only_block_size = 1

    def mask_prob(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def weight(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)
