"""How the CPU backend cuts one block attention into rectangles of queries and keys.

Queries are kept in *tile order*: the noisy rows of a small tile of tokens, then its clean rows, then the next
tile. Any range of whole tiles is then one contiguous range of rows holding both copies, which see the same
earlier clean keys. Every (query, key) pair that attends belongs to exactly one `Part`:

- own: noisy rows over the noisy keys of their tile;
- stair: the rows of a step of tokens over the clean keys of its segment, up to and including the step;
- halving: the rows of every odd run of S tokens over the clean keys of the even run before it, for S = one
  segment, two, four, ... No mask: all of it is visible.

Only own and stair hold masked pairs, a number linear in L. There are about log2(L) parts, each a batch of equal
rectangles, and about L^2 + 300 L pairs in all against the 4 L^2 of a dense mask. Blocks wider than a step need
no masks: own is then the noisy block by itself, stair the clean block by itself, and a segment is a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from bd3cli.attention.plan import HIDDEN, BlockPlan
from bd3cli.attention.strides import Runs, halves


@dataclass(frozen=True)
class Sizes:
    """Sizes to aim at, in tokens: of a tile, of a step, and steps in a segment.

    Wider tiles and steps waste work on hidden pairs, narrower ones make matrix products too small to be efficient.
    """

    tile: int
    step: int
    steps_in_segment: int


# Measured with heads of 64 on one core at L = 128 and 1024.
FULL_PRECISION, HALF_PRECISION = Sizes(16, 32, 4), Sizes(32, 64, 2)
# Keys of one part: rows of scores stay short enough that some hundreds of them fit the cache.
MAX_KEYS = 512


@dataclass(frozen=True)
class Part:
    """Runs of queries over as many runs of keys.

    Attributes:
        queries: rows in tile order.
        clean: whether the keys are those of x_0.
        keys: tokens of that copy.
        first_for_queries, first_for_keys: whether no earlier part holds these queries (these keys), so that
            results are stored rather than added.
        masked: whether some pairs are hidden.
    """

    queries: Runs
    clean: bool
    keys: Runs
    first_for_queries: bool = False
    first_for_keys: bool = False
    masked: bool = False


@dataclass(frozen=True)
class Layout:
    """The tiles, steps and segments, in tokens, into which a plan is cut: each a multiple of the one before."""

    plan: BlockPlan
    tile: int
    step: int
    segment: int

    @property
    def phases(self) -> tuple[bool, bool]:
        """The order of parts by their keys (clean: true)."""
        return (False, True) if self.wide_blocks else (True, False)

    @property
    def wide_blocks(self) -> bool:
        """Whether a step is one block, so that nothing needs a mask."""
        return self.step == self.plan.block_size

    def in_tile_order(self, x: Tensor) -> Tensor:
        """x [B, copies * L, H, D] as a view [B, H, L / tile, copies, tile, D]."""
        copies, tiles = self.plan.copies, self.plan.length // self.tile
        view: Tensor = x.unflatten(1, (copies, tiles, self.tile)).permute(0, 4, 2, 1, 3, 5)
        return view

    def position(self, row: Tensor) -> Tensor:
        """The row of [x_t, x_0] that is row `row` in tile order."""
        copy_and_token = row % (self.plan.copies * self.tile)
        tile = row // (self.plan.copies * self.tile)
        return copy_and_token // self.tile * self.plan.length + tile * self.tile + row % self.tile

    @lru_cache(maxsize=128)  # noqa: B019 - layouts are values: the cache keeps small masks, not anyone's state
    def bias(self, part: Part, dtype: torch.dtype) -> Tensor | None:
        """Added to the scores of the last keys of every run, [queries.width, last]; None when nothing is hidden.

        All queries of the run see the keys before these.
        """
        if not part.masked:
            return None
        query = self.position(torch.arange(part.queries.start, part.queries.start + part.queries.width))
        key = torch.arange(part.keys.start, part.keys.start + part.keys.width) + part.clean * self.plan.length
        hidden = ~self.plan.visible(query[:, None], key[None, :])
        hidden = hidden[:, hidden.any(0).int().argmax() :]
        return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, HIDDEN)

    def parts(self, group: int) -> list[Part]:
        """Every part, for tensors [G, rows, ...] of `group` = G heads; those over one copy's keys follow each other.

        Runs of several heads are one batch only if they tile the whole sequence; others are parts of their own.
        """
        if self.wide_blocks:
            whole = [*self._blocks(), *self._halving()]
        else:
            whole = [*self._stair(), *self._halving(), self._own()]
        narrow = (piece for part in whole for piece in _narrow(part))
        return [piece for part in narrow for piece in self._batches(part, group)]

    def _batches(self, part: Part, group: int) -> Iterator[Part]:
        keys = part.keys
        if group == 1 or keys.count == 1 or keys.count * keys.stride == self.plan.length:
            yield part
        else:
            for i in range(keys.count):
                yield replace(part, queries=part.queries.one(i), keys=keys.one(i))

    def _blocks(self) -> Iterator[Part]:
        """Own and stair when every step is a block."""
        copies, size = self.plan.copies, self.step
        keys = Runs(0, self.plan.length // size, size, size)
        queries = Runs(0, keys.count, copies * size, size)
        yield Part(queries, False, keys, True, True)
        if self.plan.clean_queries:
            yield Part(queries.within(size, size), True, keys, True, True)

    def _own(self) -> Part:
        tile = self.tile
        keys = Runs(0, self.plan.length // tile, tile, tile)
        queries = Runs(0, keys.count, self.plan.copies * tile, tile)
        return Part(queries, False, keys, False, True, masked=tile > self.plan.block_size)

    def _stair(self) -> Iterator[Part]:
        copies, step, length = self.plan.copies, self.step, self.plan.length
        full, rest = divmod(length, self.segment)
        for first, count, segment in ((0, full, self.segment), (full * self.segment, 1, rest)):
            # Widest first: it holds all keys of the segment, the others add to their gradients.
            for start in range(segment - step, -1, -step) if count else ():
                queries = Runs(copies * (first + start), count, copies * self.segment, copies * step)
                keys = Runs(first, count, self.segment, start + step)
                yield Part(queries, True, keys, True, keys.width == segment, masked=True)

    def _halving(self) -> Iterator[Part]:
        for queries, keys in halves(self.plan.length, self.segment):
            yield Part(queries.scaled(self.plan.copies), True, keys)


def _narrow(part: Part) -> Iterator[Part]:
    """The part cut so that none holds more than `MAX_KEYS` keys."""
    if part.masked or part.keys.width <= MAX_KEYS:
        yield part
        return
    for start in range(0, part.keys.width, MAX_KEYS):
        keys = part.keys.within(start, min(MAX_KEYS, part.keys.width - start))
        yield replace(part, keys=keys, first_for_queries=part.first_for_queries and start == 0)


@lru_cache(maxsize=64)
def layout_for(plan: BlockPlan, sizes: Sizes = FULL_PRECISION) -> Layout:
    """The layout of a plan whose length `padded_length` has made fit."""
    size = plan.block_size
    if size > sizes.step:
        return Layout(plan, size, size, size)
    step = nearest_divisor(plan.length, size, sizes.step)
    assert step is not None, plan
    tile = nearest_divisor(step, size, sizes.tile)
    assert tile is not None, plan
    return Layout(plan, tile, step, step if step == size else min(step * sizes.steps_in_segment, plan.length))


def padded_length(plan: BlockPlan, sizes: Sizes = FULL_PRECISION) -> int:
    """L, or the next length that steps of about `sizes.step` tokens divide if L has no such divisor."""
    size, wanted = plan.block_size, sizes.step
    if size > wanted // 2 or plan.length <= wanted:
        return plan.length
    if nearest_divisor(plan.length, size, wanted, at_least=wanted // 2):
        return plan.length
    step = wanted // size * size
    return -(-plan.length // step) * step


def nearest_divisor(length: int, size: int, wanted: int, at_least: int = 1) -> int | None:
    """The multiple of `size` that divides `length`, up to 2 * `wanted`, closest to `wanted`."""
    found = [m for m in range(size, 2 * wanted + 1, size) if length % m == 0 and m >= at_least]
    return min(found, key=lambda m: abs(m - wanted), default=None)
