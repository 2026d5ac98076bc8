"""`adaptive`: how many tokens of a block are masked follows from the losses seen so far.

Let S be the summed -log p of the k masked tokens of a block with n maskable ones. Drawing k from any
distribution q and weighting S by 1 / (k q(k)) estimates the NELBO without bias, with second moment
sum_k E[(S/k)^2] / q(k). It is least for q(k) proportional to sqrt(E[(S/k)^2]), the root mean square loss of
a masked token. Training sees S in every step, so q costs nothing to estimate.

Shapes: C counts or bins of counts; tables have a row for every n of 0..block_size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bd3cli.maskings.base import Learner, MaskContext, MaskDraw, Masking, MaskNoise, Observation
from bd3cli.maskings.count import Count, subset_draw
from bd3cli.parameters import parameter

EXACT_BINS = 8  # counts 1..8 have a bin each; above, bins grow in proportion to the count
BIN_GROWTH = 1.25
PRIOR_DRAWS = 20.0  # how many draws the assumption of equal losses is worth


@dataclass(frozen=True)
class Adaptive(Masking):
    """k of n tokens masked with the probability q(k) that gives the loss the least variance; weight 1 / (k q(k)).

    q is learned while training, for each n of its own, from averages over about `memory` steps; it starts
    uniform, which is `count`. A share `floor` of it stays uniform, so no weight exceeds that of `count` by
    more than 1 / floor. Unbiased at every moment: a draw is weighted by the q it came from.
    """

    floor: float = parameter(0.1, "share of q that stays uniform", low=1e-3, high=1.0)
    memory: int = parameter(200, "steps the averages reach back", low=1)
    refresh: int = parameter(20, "steps between two updates of q", low=2)

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        """Before anything is learned."""
        return Count().draw(noise, context)

    def learner(self, block_size: int) -> Learner:
        return CountLearner(self, block_size)


@dataclass(frozen=True, eq=False)
class CountsFrom(Masking):
    """k drawn from the row of `q` that belongs to a block's n, then a uniform k-subset; weight 1 / (k q(k)).

    Attributes:
        q: [block_size + 1, block_size + 1] float64; row n holds the positive probabilities of k = 1..n.
    """

    q: Tensor

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        n = context.blocks(context.maskable).sum(-1)
        below = self.q.cumsum(-1)[n]  # [B, N, C] probability of a count up to k
        # the last step of a distribution function may miss 1 by rounding
        k = torch.minimum((below[..., 1:] <= noise.time.unsqueeze(-1)).sum(-1) + 1, n)
        q = self.q[n, k]
        return subset_draw(k, 1 / (k * q).where(k > 0, 1.0), noise, context)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CountsFrom) and torch.equal(self.q, other.q)

    def __hash__(self) -> int:
        return hash((self.q.shape, float(self.q[-1].square().sum())))


class CountLearner:
    """Exponential averages of (factor * S / k)^2 for every n and count, large counts in bins.

    Attributes:
        total: [block_size + 1, C] decayed sum of (factor * S / k)^2 over the draws seen.
        draws: [block_size + 1, C] decayed number of those draws.
    """

    def __init__(self, settings: Adaptive, block_size: int) -> None:
        self.settings, self.block_size = settings, block_size
        self.bin = count_bins(block_size)  # [block_size + 1]
        bins = int(self.bin.max()) + 1
        self.total = torch.zeros(block_size + 1, bins, dtype=torch.float64)
        self.draws = torch.zeros_like(self.total)

    @property
    def refresh(self) -> int:
        return self.settings.refresh

    def observe(self, seen: Observation) -> None:
        k, n = seen.masked.flatten(), seen.maskable.flatten()
        squared = (seen.factor.flatten() * seen.nll.flatten().double() / k.clamp_min(1)).square()
        keep = k > 0
        cell = (n * self.total.shape[1] + self.bin[k])[keep]
        decay = math.exp(-1 / self.settings.memory)
        self.total.mul_(decay).view(-1).index_add_(0, cell, squared[keep])
        self.draws.mul_(decay).view(-1).index_add_(0, cell, torch.ones_like(squared[keep]))

    def masking(self) -> CountsFrom:
        return CountsFrom(self.probabilities())

    def probabilities(self) -> Tensor:
        """[block_size + 1, block_size + 1] q(k) in row n."""
        counts = torch.arange(self.block_size + 1)
        of = counts.unsqueeze(1)
        q = ((counts >= 1) & (counts <= of)) / of.clamp_min(1).double()
        for n in torch.nonzero(self.draws.sum(1)).flatten().tolist():
            root = self._root_mean_square(n)
            q[n, 1 : n + 1] = (1 - self.settings.floor) * root / root.sum() + self.settings.floor / n
        return q

    def summary(self) -> dict[str, Any]:
        """q of the commonest n, at one count a bin."""
        n = int(self.draws.sum(1).argmax()) or self.block_size
        counts = [c for c in bin_counts(self.bin) if c <= n]
        q = self.probabilities()[n]
        return {"n": n, "k": counts, "q": [round(float(q[c]), 6) for c in counts]}

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total.clone(), "draws": self.draws.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.draws = state["total"].clone(), state["draws"].clone()

    def _root_mean_square(self, n: int) -> Tensor:
        """[n] estimate of sqrt(E[(S/k)^2]) for k = 1..n, up to a constant: of one row, log-linear between bins."""
        bins = int(self.bin[n]) + 1
        total, draws = self.total[n, :bins], self.draws[n, :bins]
        mean = total.sum() / draws.sum()
        if not 0 < float(mean) < math.inf:
            return torch.ones(n, dtype=torch.float64)
        root = ((total + PRIOR_DRAWS * mean) / (draws + PRIOR_DRAWS)).sqrt()
        k, centers = np.arange(1, n + 1), np.array(bin_counts(self.bin))[:bins]
        return torch.from_numpy(np.exp(np.interp(np.log(k), np.log(centers), root.log().numpy())))


def count_bins(block_size: int) -> Tensor:
    """Bin of every count 0..block_size (0 shares the bin of 1): single counts first, then in proportion."""
    bins, first = [0], 1
    while first <= block_size:
        width = 1 if first <= EXACT_BINS else max(1, round(first * (BIN_GROWTH - 1)))
        index = bins[-1] + (first > 1)
        bins += [index] * min(width, block_size + 1 - first)
        first += width
    return torch.tensor(bins)


def bin_counts(bins: Tensor) -> list[int]:
    """The count in the middle of each bin."""
    return [
        int(counts[len(counts) // 2])
        for counts in (torch.nonzero(bins[1:] == i).flatten() + 1 for i in range(int(bins.max()) + 1))
    ]
