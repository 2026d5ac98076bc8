"""Deterministic integration over time, for schedules that may be arbitrarily steep. All in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from bd3cli.schedules.base import NoiseSchedule

LARGEST_MOVE = 0.01  # of p within a cell
NEGLIGIBLE_MOVE = 1e-9
LARGEST_BEND = 0.05  # of p off the straight line through a cell's ends, as a fraction of its move
FINEST = 1024  # floating-point numbers in a cell that is not split any more
SMALLEST = 1e-290  # nor is one that ends here: derivatives overflow
TOO_STEEP = 1e6  # slope from which a cell of that width can hide a visible move of p
NODES = 6
MOST_CELLS = 100_000


@dataclass(frozen=True)
class Cells:
    """A partition of a time interval on which p moves little and almost linearly.

    Attributes:
        low, high: [C] edges of the cells.
        p_low, p_high: [C] mask probabilities there.
        resolved: [C] bool; False where floating-point times are too coarse to follow p any further.
        steep: [C] bool; True where such a cell has a slope that explains the move, False where p jumps.
    """

    low: Tensor
    high: Tensor
    p_low: Tensor
    p_high: Tensor
    resolved: Tensor
    steep: Tensor

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Gauss-Legendre times and weights [R * NODES] of the resolved cells."""
        x, w = _legendre()
        low, width = self.low[self.resolved], (self.high - self.low)[self.resolved]
        return (low.unsqueeze(-1) + width.unsqueeze(-1) * x).flatten(), (width.unsqueeze(-1) * w).flatten()


def refine(schedule: NoiseSchedule, low: float = 0.0, high: float = 1.0) -> Cells:
    """Split [low, high] until p moves by less than 0.01, and nearly linearly, in every cell.

    A cell as narrow as 1,024 neighbouring floating-point numbers is kept as it is and marked.

    Raises:
        ValueError: when p is not a number somewhere, or fluctuates everywhere.
    """
    a = torch.linspace(low, high, 257, dtype=torch.float64)
    a, b = a[:-1], a[1:]
    done: list[tuple[Tensor, ...]] = []
    while len(a):
        if len(a) > MOST_CELLS:
            raise ValueError("p(t) moves up and down too much to be integrated")
        p_a, p_m, p_b = (schedule.mask_prob(t) for t in (a, (a + b) / 2, b))
        if not bool(torch.isfinite(p_a + p_m + p_b).all()):
            raise ValueError(f"p(t) is not a number for some t in [{low:g}, {high:g}]")
        move = torch.maximum((p_b - p_a).abs(), torch.maximum((p_m - p_a).abs(), (p_b - p_m).abs()))
        bent = (p_m - (p_a + p_b) / 2).abs() > LARGEST_BEND * move
        coarse = (move > LARGEST_MOVE) | (bent & (move > NEGLIGIBLE_MOVE))
        # Loss weights may be singular where nothing or everything is masked: p and 1 - p change by factors only.
        wide = _spans(p_a, p_b) | _spans(1 - p_a, 1 - p_b)
        fine = ((b.view(torch.int64) - a.view(torch.int64)) <= FINEST) | (b <= SMALLEST)
        keep = fine | ~(coarse | (wide & (move > NEGLIGIBLE_MOVE)))
        done.append(tuple(x[keep] for x in (a, b, p_a, p_b, ~coarse)))
        a, b = a[~keep], b[~keep]
        middle = _between(a, b)
        a, b = torch.cat([a, middle]), torch.cat([middle, b])
    columns = [torch.cat(parts) for parts in zip(*done, strict=True)]
    order = columns[0].argsort()
    a, b, p_a, p_b, resolved = (column[order] for column in columns)
    steep = torch.zeros_like(resolved)
    if not bool(resolved.all()):
        left = ~resolved
        slopes = [schedule.rate(t[left]) for t in (a, _between(a, b), b)]
        steep[left] = torch.stack(slopes).abs().amax(0) >= TOO_STEEP
    return Cells(a, b, p_a, p_b, resolved, steep)


def _spans(x: Tensor, y: Tensor) -> Tensor:
    """Whether two numbers, both at least negligible, are more than a factor of 4 apart."""
    x, y = x.clamp_min(NEGLIGIBLE_MOVE), y.clamp_min(NEGLIGIBLE_MOVE)
    return (x > 4 * y) | (y > 4 * x)


def _between(a: Tensor, b: Tensor) -> Tensor:
    """A time inside each cell: half-way, or half-way by exponent in a cell that spans decades."""
    bits = ((a.view(torch.int64) + b.view(torch.int64)) // 2).view(torch.float64)
    return torch.where(b > 4 * a, bits, (a + b) / 2)


@cache
def _legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)
