"""Confidence-threshold parallel decoding inside a block (Wu et al. 2025).

Every evaluation draws a token for all masked positions and keeps those whose distribution is sure enough. It
is fast, and not exact: tokens revealed together are drawn independently, and the order depends on the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bd3cli.sampling.blockwise import Blockwise


class Confidence(Blockwise):
    """Reveal the positions whose most probable token has probability over the threshold, else the surest one."""

    reads = ("threshold",)

    def order(self, u: Tensor) -> Tensor:
        return torch.zeros_like(u, dtype=torch.long)

    def accept(self, top: Tensor) -> Tensor:
        surest = torch.zeros_like(top, dtype=torch.bool).scatter_(1, top.argmax(-1, keepdim=True), True)
        return (top > self.request.threshold) | surest

    def mask_prob(self, row: Tensor, place: Tensor) -> Tensor:
        return torch.bincount(row)[row] / self.size  # there is no time here: the share that is masked
