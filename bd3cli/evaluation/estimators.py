"""Estimators of one quantity: the NELBO of a masked diffusion model, in nats.

Each is a list of weighted masks for every sequence; the NELBO is the sum, over the masks, of weight times
the negative log-probabilities of the masked tokens. The randomness of a sequence depends on the seed and on
the sequence's index alone, so batching and order change nothing.

Shapes: n sequences, D draws, L positions, N blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bd3cli.errors import InputError
from bd3cli.evaluation.subsets import spread
from bd3cli.maskings import MaskDraw
from bd3cli.maskings.base import lowest
from bd3cli.rng import generator, stratified, uniform
from bd3cli.schedules import Noise

T_MIN = 1e-3  # smallest time of the `uniform` estimator, as in the paper's evaluation
LARGEST_EXACT_BLOCK = 4


class Estimator(Protocol):
    """Weighted masks for chosen sequences.

    Attributes:
        name: as on the command line.
        passes: forward passes a sequence, D.
        draws_time: whether a draw's masks come from a time, whose mask probability it holds.
    """

    @property
    def name(self) -> str: ...

    @property
    def passes(self) -> int: ...

    @property
    def draws_time(self) -> bool: ...

    def draws(self, sequences: list[int], maskable: Tensor) -> list[MaskDraw]:
        """D draws for the sequences with these indices, whose `maskable` tokens are given [n, L]."""
        ...


def make_estimator(
    name: str, block_size: int, total: int, draws: int = 1, seed: int = 0, time_conditioning: bool = False
) -> Estimator:
    """The estimator called `name` for `total` sequences.

    Raises:
        InputError: unknown name, or `exact` for blocks whose masks are too many to enumerate or for a network that
            sees the noise level.
    """
    if name == "exact":
        if time_conditioning:
            raise InputError(
                "The exact estimator enumerates masks, but this network also sees the noise level, of which there "
                "are infinitely many. Use --estimator count."
            )
        if block_size > LARGEST_EXACT_BLOCK:
            raise InputError(
                f"The exact estimator enumerates all 2^L' masks of a block and stops at block size "
                f"{LARGEST_EXACT_BLOCK}; this run has {block_size}. Use --estimator count."
            )
        return Exact(block_size)
    if name == "count":
        return Count(Strata(block_size, total, draws, seed))
    if name == "uniform":
        return Uniform(Strata(block_size, total, draws, seed))
    raise InputError(f"There is no estimator {name!r}. Choose count, uniform or exact.")


def level_uniforms(seed: int, sequences: list[int], draws: int) -> Tensor:
    """Uniforms [n, D] that give networks which see the noise level one, when an estimator draws no time.

    A sequence's D uniforms fall into different cells; they are independent of its masks.
    """
    return torch.stack([stratified(draws, seed, "level", index) for index in sequences])


@dataclass(frozen=True)
class Strata:
    """Stratified uniforms for every (sequence, draw, block), each uniform on its own.

    Three nested levels: a block's D draws fall into D different cells; inside those, the N blocks of a
    sequence into N different cells; inside those, the sequences of any chosen subset are spread evenly.
    """

    block_size: int
    total: int
    draws: int
    seed: int

    def times(self, sequences: list[int], blocks: int) -> Tensor:
        """[n, D, N] float64 in [0, 1)."""
        across = spread(self.total, self.seed, "sequences")
        rows = []
        for index in sequences:
            g = generator(self.seed, "strata", index)
            within = (torch.from_numpy(g.permutation(blocks)) + across[index]) / blocks  # [N]
            cells = torch.from_numpy(g.random((self.draws, blocks))).argsort(0)  # [D, N]
            rows.append((cells.double() + within) / self.draws)
        return torch.stack(rows)

    def positions(self, sequences: list[int], length: int) -> Tensor:
        """[n, D, L] independent float64 uniforms."""
        shape = (self.draws, length)
        return torch.stack([uniform(shape, self.seed, "positions", i) for i in sequences])


@dataclass(frozen=True)
class Count:
    """k of a block's n tokens masked, k uniform in 1..n, weight n/k: the NELBO with its time integrated out."""

    strata: Strata
    name = "count"
    draws_time = False

    @property
    def passes(self) -> int:
        return self.strata.draws

    def draws(self, sequences: list[int], maskable: Tensor) -> list[MaskDraw]:
        blocks = maskable.unflatten(1, (-1, self.strata.block_size))  # [n, N, block_size]
        n = blocks.sum(-1)
        times = self.strata.times(sequences, blocks.shape[1])
        keys = self.strata.positions(sequences, maskable.shape[1])
        out = []
        for d in range(self.passes):
            k = torch.minimum((times[:, d] * n).long() + 1, n)
            mask = lowest(keys[:, d].view(blocks.shape), k, blocks).flatten(1)
            rate = k / n.clamp_min(1).double()
            weight = torch.where(n > 0, 1 / rate, 0.0) / self.passes
            out.append(MaskDraw(mask, Noise.linear(rate, weight)))
        return out


@dataclass(frozen=True)
class Uniform:
    """The paper's estimator: t uniform in [1e-3, 1], independent masks with probability t, weight 1/t."""

    strata: Strata
    name = "uniform"
    draws_time = True

    @property
    def passes(self) -> int:
        return self.strata.draws

    def draws(self, sequences: list[int], maskable: Tensor) -> list[MaskDraw]:
        size = self.strata.block_size
        times = self.strata.times(sequences, maskable.shape[1] // size)
        keys = self.strata.positions(sequences, maskable.shape[1])
        out = []
        for d in range(self.passes):
            t = T_MIN + (1 - T_MIN) * times[:, d]
            mask = (keys[:, d] < t.repeat_interleave(size, 1)) & maskable
            out.append(MaskDraw(mask, Noise.linear(t, 1 / (t * self.passes))))
        return out


@dataclass(frozen=True)
class Exact:
    """Every non-empty mask of a block, weighted by its probability under `count`: no Monte Carlo at all.

    All blocks take the same pattern in one pass; given the clean earlier blocks they do not interact.
    """

    block_size: int
    name = "exact"
    draws_time = False

    @property
    def passes(self) -> int:
        return int(2**self.block_size - 1)

    def draws(self, sequences: list[int], maskable: Tensor) -> list[MaskDraw]:
        blocks = maskable.unflatten(1, (-1, self.block_size))
        n = blocks.sum(-1)
        out = []
        for code in range(1, 2**self.block_size):
            pattern = torch.tensor([bool(code >> i & 1) for i in range(self.block_size)])
            fits = (blocks | ~pattern).all(-1)  # no masked token is given or padding
            k = int(pattern.sum())
            subsets = torch.tensor([math.comb(m, k) for m in range(self.block_size + 1)]).double()[n]
            weight = torch.where(fits, 1 / (k * subsets.clamp_min(1)), 0.0)
            mask = (fits.unsqueeze(-1) & pattern).flatten(1)
            rate = torch.full_like(weight, k / self.block_size)
            out.append(MaskDraw(mask, Noise.linear(rate, weight)))
        return out
