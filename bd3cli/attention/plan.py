"""Which queries meet which keys: the one description every backend is derived from and tested against.

The network is fed two copies of a sequence of L tokens, the noisy x_t then the clean x_0, as 2L rows.
Tokens form blocks of L' (equation 9 and figure 3 of arXiv 2503.09573 call the three parts of the mask
block-diagonal, offset block-causal and block-causal):

====== ============================ ==============================
query  sees noisy keys of           sees clean keys of
====== ============================ ==============================
x_t    its own block                the strictly earlier blocks
x_0    no block                     its own and the earlier blocks
====== ============================ ==============================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.errors import InputError

HIDDEN = -1e30
"""Added to the scores of hidden pairs by backends that merge parts: a part that shows a row nothing has a log-sum-exp
of about this, hence a weight of exactly zero, where minus infinity would give (-inf) - (-inf) = NaN."""


@dataclass(frozen=True)
class BlockPlan:
    """The shape of one block attention: L tokens in blocks of L', with or without clean queries.

    Args:
        length: L, the tokens of one copy.
        block_size: L', a divisor of L.
        clean_queries: whether the queries are [x_t, x_0] (2L rows) or x_t alone (L rows).

    Raises:
        InputError: when `block_size` does not divide `length`.
    """

    length: int
    block_size: int
    clean_queries: bool = True

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"The sequence is empty: the length must be at least 1, not {self.length}.")
        if not 1 <= self.block_size <= self.length or self.length % self.block_size:
            raise InputError(
                f"Block size {self.block_size} does not divide the length {self.length}; "
                "choose a divisor of the length, or change the length to a multiple of the block size."
            )

    @property
    def copies(self) -> int:
        """Query copies: 2 for [x_t, x_0], 1 for x_t alone."""
        return 2 if self.clean_queries else 1

    @property
    def queries(self) -> int:
        """Query rows, L or 2L."""
        return self.copies * self.length

    @property
    def keys(self) -> int:
        """Key rows, always 2L."""
        return 2 * self.length

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether row `query` of [x_t, x_0] attends to row `key`; index tensors of broadcastable shapes."""
        query_clean, key_clean = query >= self.length, key >= self.length
        query_block, key_block = query % self.length // self.block_size, key % self.length // self.block_size
        own = (query_block == key_block) & (query_clean == key_clean)
        earlier = (query_block > key_block) & key_clean
        return own | earlier


def dense_mask(plan: BlockPlan, device: torch.device | str = "cpu") -> Tensor:
    """The whole mask, [queries, 2L] boolean: quadratic in L, for the definition and for tests."""
    query = torch.arange(plan.queries, device=device)[:, None]
    key = torch.arange(plan.keys, device=device)[None, :]
    return plan.visible(query, key)
