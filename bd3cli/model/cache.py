"""Keys and values of tokens already generated, for rows that each go at their own pace.

Keys are stored rotated by their absolute positions: a score depends on the difference of two rotations only,
so nothing is rotated twice and a window may slide without touching what it holds. Position p lies in slot
p mod capacity, so a cache of the context and a little more serves text of any length.

Shapes: B rows, N tokens of a pass (row after row), S queries of a row at most, K slots, H heads, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """The tokens one pass adds.

    Attributes:
        rows, positions: [N] row and absolute position of each token.
        slots: [N] where their keys and values go.
        counts, ends: [B] tokens each row adds, and its length with them.
        lockstep: whether every row adds the same positions.
    """

    counts: Tensor
    ends: Tensor
    rows: Tensor
    positions: Tensor
    slots: Tensor
    lockstep: bool


@dataclass(frozen=True)
class Queries:
    """Tokens that attend, and what they see.

    Attributes:
        width: S, the most a row has.
        reach: K, slots [0, K) are read.
        mask: [B or 1, 1, S, K] bool, None when everything read is seen.
        place: [N] place of each token in a [B S] grid; None when they fill it in order.
    """

    width: int
    reach: int
    mask: Tensor | None
    place: Tensor | None

    def to(self, device: torch.device) -> Queries:
        """The same on `device`."""
        mask, place = (x if x is None else x.to(device) for x in (self.mask, self.place))
        return replace(self, mask=mask, place=place)


@dataclass
class KVCache:
    """Preallocated rotated keys and values for every layer, on the model's device and in its dtype.

    `lengths` tokens of each row are committed. `Transformer.extend` writes the keys and values of the tokens
    it is given after them without committing: the block being denoised is written again at every step, and
    the caller commits it by raising `lengths` once it is clean.

    Attributes:
        keys, values: one [B, H, capacity, D] tensor a layer.
        block_size: a token sees its own block and earlier ones.
        window: tokens a block sees, its own included; whole blocks.
        modulation: the time modulation of every layer, constant while sampling, computed once.
    """

    keys: list[Tensor]
    values: list[Tensor]
    block_size: int
    window: int
    lengths: Tensor
    modulation: list[tuple[Tensor, ...]] = field(default_factory=list)

    @staticmethod
    def allocate(
        layers: int, batch: int, heads: int, capacity: int, head_dim: int, block_size: int, window: int, like: Tensor
    ) -> KVCache:
        """An empty cache with the device and dtype of `like`."""

        def empty() -> list[Tensor]:
            # zeros: what is masked is multiplied by 0, which does not remove a NaN left in fresh memory
            return [like.new_zeros(batch, heads, capacity, head_dim) for _ in range(layers)]

        return KVCache(empty(), empty(), block_size, window, torch.zeros(batch, dtype=torch.long))

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    @property
    def room(self) -> int:
        """Tokens a row may add in one pass without overwriting keys that its first block still sees."""
        if self.capacity <= self.window:  # nothing is ever overwritten
            return self.capacity
        return self.capacity - self.window + self.block_size

    def span(self, counts: Tensor) -> Span:
        """Where the next `counts` [B] tokens of each row go."""
        first, lockstep = int(counts[0]), bool((counts == counts[0]).all() and (self.lengths == self.lengths[0]).all())
        rows = torch.repeat_interleave(counts)
        if lockstep:
            positions = (self.lengths[0] + torch.arange(first)).repeat(len(counts))
        else:
            offset = counts.cumsum(0) - counts
            positions = torch.arange(len(rows)) - offset[rows] + self.lengths[rows]
        ends = self.lengths + counts
        if int(ends.max()) > self.capacity:
            assert int(counts.max()) <= self.room, f"{int(counts.max())} tokens at once, room for {self.room}"
        return Span(counts, ends, rows, positions, positions % self.capacity, lockstep)

    def queries(self, rows: Tensor, positions: Tensor, ends: Tensor) -> Queries:
        """What tokens at `positions` [N] of `rows` [N] (in order of rows) see, the rows ending at `ends` [B]."""
        batch, size = len(ends), self.block_size
        counts = torch.bincount(rows, minlength=batch)
        width = int(counts.max())
        last = int(ends.max())
        reach = min(last, self.capacity)
        place = None
        if width * batch != len(rows):
            offset = counts.cumsum(0) - counts
            place = rows * width + torch.arange(len(rows)) - offset[rows]
        newest = (last - 1) // size
        if last <= self.window and int(ends.min()) == last and int(positions.min()) // size == newest:
            return Queries(width, reach, None, place)
        grid = torch.zeros(batch * width, dtype=torch.long)  # a place nobody fills sees what position 0 sees
        if place is None:
            grid.copy_(positions)
        else:
            grid[place] = positions
        block = grid.view(batch, width, 1) // size
        # the newest position in each slot; slots never written hold a negative one
        end = ends.unsqueeze(1)
        held = end - 1 - (end - 1 - torch.arange(reach)) % self.capacity
        held_block = torch.where(held < 0, -1, held // size).unsqueeze(1)
        seen = (held_block <= block) & (held_block > block - self.window // size) & (held_block >= 0)
        if place is not None:  # softmax over nothing is not a number
            seen |= ~torch.zeros(batch * width, dtype=torch.bool).index_fill_(0, place, True).view(batch, width, 1)
        return Queries(width, reach, seen.unsqueeze(1), place)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, span: Span, queries: Queries) -> Tensor:
        """Write keys and values [N, H, D] of a span, then attend with queries [M, H, D]: [M, H, D]."""
        batch = len(self.lengths)
        keys, values = self.keys[layer][:batch], self.values[layer][:batch]
        first, width = int(span.slots[0]), len(span.slots) // batch
        if span.lockstep and first + width <= self.capacity:
            for store, new in ((keys, k), (values, v)):
                store[:, :, first : first + width] = new.view(batch, width, *new.shape[1:]).transpose(1, 2)
        else:
            rows, slots = span.rows.to(k.device), span.slots.to(k.device)
            keys[rows, :, slots] = k
            values[rows, :, slots] = v
        keys, values = keys[:, :, : queries.reach], values[:, :, : queries.reach]
        place = queries.place
        if place is not None:
            q = q.new_zeros(batch * queries.width, *q.shape[1:]).index_copy_(0, place, q)
        q = q.view(batch, queries.width, *q.shape[1:]).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=queries.mask).transpose(1, 2).flatten(0, 1)
        return out if place is None else out[place]

    def keep(self, rows: Tensor) -> None:
        """Drop all but `rows` (increasing); the others' memory stays reserved until the cache goes."""
        for new, old in enumerate(rows.tolist()):
            if new != old:
                for store in (*self.keys, *self.values):
                    store[new] = store[old]
        self.lengths = self.lengths[rows]
