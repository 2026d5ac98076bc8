"""`frequency`: which tokens are masked depends on how rare they are; how many does not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.errors import InputError
from bd3cli.maskings import MaskContext, MaskDraw, Masking, MaskNoise
from bd3cli.parameters import parameter
from bd3cli.schedules import Noise
from bd3cli_frequency.subsets import TiltedSubsets


@dataclass(frozen=True)
class FrequencyInformed(Masking):
    """k tokens of a block are masked, k uniform in 1..n, and subsets with rarer tokens are likelier.

    A subset M of size k is drawn with probability proportional to the product of r_i over M, where
    r_i = (frequency of token i in the training data)^-strength. The weight n/k of plain counts is multiplied
    by the likelihood ratio of the *whole mask*, P_uniform(M | k) / P_frequency(M | k), so that the NELBO
    stays unbiased. One ratio for each token would not do: what a masked token costs depends on which others
    are masked with it.

    The ratio spreads with the block size, so choose a smaller strength for larger blocks; 0 is `count`.
    """

    uses_token_counts = True

    strength: float = parameter(0.25, "exponent of 1 / frequency; 0 ignores frequency", low=0.0, high=2.0)

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        maskable = context.blocks(context.maskable)
        n = maskable.sum(-1)
        k = torch.minimum((noise.time * n).long() + 1, n)
        subsets = TiltedSubsets(self._log_odds(context), maskable)
        mask = subsets.draw(k, context.blocks(noise.position))
        rate = k / n.clamp_min(1).double()
        ratio = subsets.log_ratio(mask, k).exp()
        return MaskDraw(mask.flatten(1), Noise.linear(rate, torch.where(n > 0, ratio / rate, 0.0)))

    def _log_odds(self, context: MaskContext) -> Tensor:
        """log r of every token, [B, N, block_size]."""
        if context.token_counts is None:
            raise InputError(
                "masking 'frequency' needs to know how often each token occurs in the training data, and was not "
                "told. Train with it through `bd3cli train`, or set MaskContext.token_counts."
            )
        counts = context.token_counts.double() + 1  # a token that never occurs is rare, not infinitely so
        log_r = -self.strength * (counts / counts.sum()).log()
        return context.blocks(log_r[context.tokens])
