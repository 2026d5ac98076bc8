"""Choose which sequences of a split are evaluated: the same for every model, seed and call."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bd3cli.rng import uniform

GOLDEN = (math.sqrt(5) - 1) / 2


@functools.lru_cache(maxsize=8)
def fixed_order(total: int) -> npt.NDArray[np.int64]:
    """A fixed random order [total] of a split's sequences; a subset of N is its first N."""
    return np.random.default_rng(0).permutation(total)


def choose_sequences(total: int, wanted: int | None) -> list[int]:
    """A random subset in ascending order, the same one for every model, seed and call."""
    if wanted is None or wanted >= total:
        return list(range(total))
    out: list[int] = sorted(fixed_order(total)[:wanted].tolist())
    return out


def spread(total: int, *key: int | str) -> Tensor:
    """[total] float64 in [0, 1): each uniform alone, and evenly spread over *every* subset of `choose_sequences`.

    Multiples of the golden ratio along `fixed_order`, all shifted by one uniform of the stream `key`: any first N
    of them leave no gap longer than about 1.6 / N (the three-distance theorem).
    """
    rank = torch.empty(total, dtype=torch.float64)
    rank[torch.from_numpy(fixed_order(total))] = torch.arange(total, dtype=torch.float64)
    return (rank * GOLDEN + uniform((1,), *key)) % 1.0
