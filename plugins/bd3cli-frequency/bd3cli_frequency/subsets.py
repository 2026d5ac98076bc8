"""Random subsets of a given size in which some elements are likelier than others (conditional Bernoulli).

P(M) is the product of r_i over M divided by e_k(r), the k-th elementary symmetric polynomial: the sum of
that product over all subsets of size k. Shapes: B sequences, N blocks, n positions in a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TiltedSubsets:
    """Subsets of the `maskable` positions of every block.

    Attributes:
        log_r: [B, N, n] float64, logarithm of each position's relative odds.
        maskable: [B, N, n] bool; other positions are in no subset.
    """

    log_r: Tensor
    maskable: Tensor

    @cached_property
    def log_odds(self) -> Tensor:
        """`log_r` with its mean over the block removed, which changes no probability and keeps sums small."""
        count = self.maskable.sum(-1, keepdim=True).clamp_min(1)
        mean = self.log_r.masked_fill(~self.maskable, 0).sum(-1, keepdim=True) / count
        return (self.log_r - mean).masked_fill(~self.maskable, -torch.inf)

    @cached_property
    def log_symmetric(self) -> list[Tensor]:
        """Entry i: [B, N, n + 1] log e_k over positions i..n-1, for every k; -inf where no subset is that large."""
        n = self.log_odds.shape[-1]
        empty = torch.full((*self.log_odds.shape[:-1], n + 1), -torch.inf, dtype=torch.float64)
        empty[..., 0] = 0
        table = [empty]
        for i in reversed(range(n)):
            without = table[0]
            included = without[..., :-1] + self.log_odds[..., i : i + 1]
            table.insert(0, torch.cat([without[..., :1], torch.logaddexp(without[..., 1:], included)], -1))
        return table

    def draw(self, k: Tensor, uniforms: Tensor) -> Tensor:
        """One subset of size `k` [B, N] in every block, [B, N, n] bool, from as many `uniforms` in [0, 1).

        Position by position: each is taken with its probability given what was taken before it.
        """
        left, available = k.clone(), self.maskable.sum(-1)
        taken = []
        for i in range(self.log_odds.shape[-1]):
            log_all = self.log_symmetric[i].gather(-1, left.unsqueeze(-1)).squeeze(-1)
            rest = self.log_symmetric[i + 1].gather(-1, (left - 1).clamp_min(0).unsqueeze(-1)).squeeze(-1)
            probability = (self.log_odds[..., i] + rest - log_all).exp()
            # The last resort does not depend on rounding: take all that are left when all are needed.
            take = (uniforms[..., i] < probability) | (left == available)
            take &= self.maskable[..., i] & (left > 0)
            left, available = left - take.long(), available - self.maskable[..., i].long()
            taken.append(take)
        return torch.stack(taken, -1)

    def log_probability(self, mask: Tensor, k: Tensor) -> Tensor:
        """log P(mask | k), [B, N]."""
        chosen = self.log_odds.masked_fill(~mask, 0).sum(-1)
        return chosen - self.log_symmetric[0].gather(-1, k.unsqueeze(-1)).squeeze(-1)

    def log_ratio(self, mask: Tensor, k: Tensor) -> Tensor:
        """log of P_uniform(mask | k) / P(mask | k), [B, N]."""
        n, size = self.maskable.sum(-1).double(), k.double()
        log_subsets = torch.lgamma(n + 1) - torch.lgamma(size + 1) - torch.lgamma(n - size + 1)
        return -log_subsets - self.log_probability(mask, k)
