"""Keys and values of the clean tokens already generated."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class KVCache:
    """Preallocated rotated keys and values for every layer, on the model's device and in its dtype.

    `length` tokens are committed. `Transformer.extend` writes the keys and values of the tokens it is given
    after them without committing: the block being denoised is written again at every step, and the caller
    commits it by moving `length` once it is clean.

    Attributes:
        keys, values: one [B, H, capacity, D] tensor a layer.
        modulation: the time modulation of every layer, constant while sampling, computed once.
    """

    keys: list[Tensor]
    values: list[Tensor]
    modulation: list[tuple[Tensor, ...]] = field(default_factory=list)
    length: int = 0

    @staticmethod
    def allocate(
        layers: int, batch: int, heads: int, capacity: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> KVCache:
        def empty() -> list[Tensor]:
            return [torch.empty(batch, heads, capacity, head_dim, device=device, dtype=dtype) for _ in range(layers)]

        return KVCache(empty(), empty())

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def write(self, layer: int, k_BSHD: Tensor, v_BSHD: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values after the committed ones; return all up to there, [B, H, length + S, D]."""
        end = self.length + k_BSHD.shape[1]
        assert end <= self.capacity, f"cache of {self.capacity} positions cannot hold {end}"
        for store, new in ((self.keys[layer], k_BSHD), (self.values[layer], v_BSHD)):
            store[:, :, self.length : end] = new.transpose(1, 2)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]
