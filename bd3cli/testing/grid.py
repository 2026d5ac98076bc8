"""Times and mask rates at which laws are checked."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-9


def times() -> Tensor:
    """[T] float64 in (0, 1], ascending: an even grid, and a geometric one towards either end."""
    even = torch.linspace(0, 1, 513, dtype=torch.float64)[1:]
    towards = torch.logspace(-9, -2.5, 64, dtype=torch.float64)
    return torch.cat([towards, even, 1 - towards]).sort().values


def rates(floor: float) -> Tensor:
    """[P] float64 mask rates in (floor, 1), ascending, denser towards either end."""
    even = torch.linspace(0, 1, 201, dtype=torch.float64)[1:-1]
    towards = torch.logspace(-6, -2.5, 16, dtype=torch.float64)
    return floor + (1 - floor) * torch.cat([towards, even, 1 - towards]).sort().values
