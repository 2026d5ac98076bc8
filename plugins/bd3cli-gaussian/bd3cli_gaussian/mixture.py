"""A mixture of two truncated normals, and its quantile function. Tensors are float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli_gaussian.truncated import TruncatedNormal

NEWTON_STEPS = 4


@dataclass(frozen=True)
class Mixture:
    """w1 `first` + (1 - w1) `second`."""

    first: TruncatedNormal
    second: TruncatedNormal
    w1: float

    def cdf(self, p: Tensor) -> Tensor:
        return self.w1 * self.first.cdf(p) + (1 - self.w1) * self.second.cdf(p)

    def tail(self, p: Tensor) -> Tensor:
        return self.w1 * self.first.tail(p) + (1 - self.w1) * self.second.tail(p)

    def log_density(self, p: Tensor) -> Tensor:
        return torch.logaddexp(
            self.first.log_density(p) + math.log(self.w1),
            self.second.log_density(p) + math.log(1 - self.w1),
        )

    def quantile(self, t: Tensor) -> Tensor:
        """The p with F(p) = t, for t in [0, 1], with full relative precision near 0.

        A table brackets p, and Newton's method, held inside the shrinking bracket, does the rest. Beyond
        t = 1/2 it solves 1 - F(p) = 1 - t, whose small numbers keep their digits.
        """
        lower_half = t < 0.5
        goal = torch.where(lower_half, t, t - 1)
        low, high, value_low, value_high = self._bracket(goal, lower_half)
        p = low + (high - low) * ((goal - value_low) / (value_high - value_low)).clamp(0, 1)
        for _ in range(NEWTON_STEPS):
            excess = torch.where(lower_half, self.cdf(p), -self.tail(p)) - goal
            low, high = torch.where(excess < 0, p, low), torch.where(excess < 0, high, p)
            p = (p - excess * (-self.log_density(p)).exp()).clamp(low, high)
        return p

    def _bracket(self, goal: Tensor, lower_half: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Neighbouring mask rates around each solution, and F (or F - 1 in the upper half) at both."""
        table = _grid(goal.device)
        F, minus_tail = self.cdf(table), -self.tail(table)
        goal = goal.contiguous()  # searchsorted copies, and warns, otherwise
        found = torch.where(lower_half, torch.searchsorted(F, goal), torch.searchsorted(minus_tail, goal))
        right = found.clamp(1, len(table) - 1)
        values = [torch.where(lower_half, F[i], minus_tail[i]) for i in (right - 1, right)]
        return table[right - 1], table[right], values[0], values[1]


def _grid(device: torch.device) -> Tensor:
    """Mask rates from 0 to 1, evenly spaced and closer together towards either end."""
    even = torch.linspace(0, 1, 1025, dtype=torch.float64, device=device)
    ends = torch.logspace(-15, -3.01, 64, dtype=torch.float64, device=device)
    return torch.cat([even, ends, 1 - ends]).sort().values
