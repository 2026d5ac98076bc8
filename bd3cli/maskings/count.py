"""`count`: mask exactly k tokens of a block, k uniform in 1..n."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.maskings.base import MaskContext, MaskDraw, Masking, MaskNoise, lowest
from bd3cli.schedules.noise import Noise


@dataclass(frozen=True)
class Count(Masking):
    """k uniform in 1..n, then a uniform k-subset of the block's n maskable tokens, with weight n/k.

    Integrating the linear schedule's t out of the NELBO leaves exactly this sum over counts. It has no 1/t
    and no empty masks, so its variance is lower than that of drawing t, and it is unbiased for any network
    that does not see t.
    """

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        n = context.blocks(context.maskable).sum(-1)
        k = torch.minimum((noise.time * n).long() + 1, n)
        return subset_draw(k, n / k.clamp_min(1).double(), noise, context)


def subset_draw(k: Tensor, weight: Tensor, noise: MaskNoise, context: MaskContext) -> MaskDraw:
    """A uniform subset of `k` [B, N] maskable tokens of every block, with `weight` [B, N].

    Time is taken to be the mask rate, p(t) = t, so that a loss weight sees alpha = 1 - k/n and slope 1.
    """
    maskable = context.blocks(context.maskable)
    mask = lowest(context.blocks(noise.position), k, maskable).flatten(1)
    rate = k / maskable.sum(-1).clamp_min(1).double()
    return MaskDraw(mask, Noise.linear(rate, weight.masked_fill(k == 0, 0.0)))
