"""Scratch memory for a group of heads, sized so that it stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# For each thread (of the first few), measured on one core with 2 MB of level-two cache: tokens of all heads of a
# group, and scores of one matrix product. bfloat16 halves the bytes, and its products pay only when larger.
_GROUP_TOKENS = {torch.float64: 1024, torch.float32: 1024, torch.bfloat16: 4096}
_MOST_THREADS = 16
_SCORES = {torch.float64: 2**16, torch.float32: 2**17, torch.bfloat16: 2**19}


@dataclass(frozen=True)
class Group:
    """`batch` sequences times `heads` heads of q [B, rows, H, D], with `scores` scores held at a time."""

    batch: int
    heads: int
    dim: int
    scores: int
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """G, the heads in all."""
        return self.batch * self.heads

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised scratch."""
        return torch.empty(shape, dtype=self.dtype)

    def slices(self, batch: int, heads: int) -> Iterator[tuple[slice, slice]]:
        """The batch and head slices of every group of [batch, heads] heads."""
        for b in range(0, batch, self.batch):
            for h in range(0, heads, self.heads):
                yield slice(b, b + self.batch), slice(h, h + self.heads)


def group_for(q: Tensor, length: int) -> Group:
    """The groups into which to cut q [B, rows, H, D] of L = `length` tokens: all of one size, filling the cache."""
    batch, heads, dim = q.shape[0], q.shape[2], q.shape[3]
    threads = min(torch.get_num_threads(), _MOST_THREADS)
    wanted = max(1, _GROUP_TOKENS[q.dtype] * threads // length)
    group_heads = _largest_divisor(heads, wanted)
    group_batch = _largest_divisor(batch, wanted // heads) if group_heads == heads else 1
    return Group(group_batch, group_heads, dim, _SCORES[q.dtype] * threads, q.dtype)


def chunks(items: int, rows: int, keys: int, scores: int) -> Iterator[tuple[slice, slice]]:
    """Slices of items and of their rows that cut scores [items, rows, keys] into chunks of at most `scores`.

    (Or one row, where that is more.)
    """
    many = max(1, scores // (rows * keys))
    few = max(1, min(rows, scores // keys))
    for item in range(0, items, many):
        for row in range(0, rows, few):
            yield slice(item, min(items, item + many)), slice(row, min(rows, row + few))


def keys_by_head(k: Tensor) -> Tensor:
    """k [B, 2L, H, D] viewed as [2, B, H, L, D]: noisy keys, then clean keys."""
    view: Tensor = k.unflatten(1, (2, k.shape[1] // 2)).permute(1, 0, 3, 2, 4)
    return view


def _largest_divisor(number: int, at_most: int) -> int:
    return max((d for d in range(1, min(number, at_most) + 1) if number % d == 0), default=1)
