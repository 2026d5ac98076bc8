"""From token ids of documents to contexts of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

IdArray = npt.NDArray[np.integer[Any]]
ROOM = 1 << 20  # tokens gathered before they are cut into rows


@dataclass(frozen=True)
class Layout:
    """How documents become contexts.

    ``wrap``: the documents, an EOS after each, form one stream that is cut into contexts; what is left
    over at the very end is dropped. ``pad``: one document a context, cut off or filled up.
    ``bos``: a context is BOS and length - 1 tokens. ``bos-eos``: BOS, length - 2 tokens and EOS.
    """

    length: int
    packing: Literal["wrap", "pad"]
    context: Literal["bos", "bos-eos"]
    bos_id: int
    eos_id: int

    @property
    def body(self) -> int:
        """Tokens of the documents that one full context holds."""
        return self.length - (1 if self.context == "bos" else 2)

    def frame(self, bodies: IdArray) -> IdArray:
        """Contexts ``[n, length]`` around bodies ``[n, body]``."""
        rows = np.empty((len(bodies), self.length), dtype=bodies.dtype)
        rows[:, 0] = self.bos_id
        rows[:, 1 : 1 + self.body] = bodies
        if self.context == "bos-eos":
            rows[:, -1] = self.eos_id
        return rows


class Piece(NamedTuple):
    """Ids of a document or of a part of one, without special ids; `end` where the document ends."""

    ids: IdArray
    end: bool


@dataclass(frozen=True)
class Block:
    """Some consecutive contexts.

    Attributes:
        rows: ``[n, length]`` ids.
        lengths: ``[n]`` how many positions of each row, from its first, are not padding.
        dropped: tokens of documents that are in no row, because they were cut off here.
    """

    rows: IdArray
    lengths: npt.NDArray[np.int64]
    dropped: int


def pack(pieces: Iterable[Piece], layout: Layout) -> Iterator[Block]:
    """Pack documents, none of them empty, into contexts."""
    return _wrap(pieces, layout) if layout.packing == "wrap" else _pad(pieces, layout)


def _wrap(pieces: Iterable[Piece], layout: Layout) -> Iterator[Block]:
    pending: list[IdArray] = []
    size = 0
    for ids, end in pieces:
        pending.append(ids)
        if end:
            pending.append(np.array([layout.eos_id], dtype=ids.dtype))
        size += len(ids) + end
        if size >= max(ROOM, layout.body):
            block, rest = _cut(np.concatenate(pending), layout)
            yield block
            pending, size = [rest], len(rest)
    if pending:
        block, rest = _cut(np.concatenate(pending), layout)
        yield Block(block.rows, block.lengths, len(rest))


def _cut(stream: IdArray, layout: Layout) -> tuple[Block, IdArray]:
    n = len(stream) // layout.body
    rows = layout.frame(stream[: n * layout.body].reshape(n, layout.body))
    return Block(rows, np.full(n, layout.length, dtype=np.int64), 0), stream[n * layout.body :]


def _pad(pieces: Iterable[Piece], layout: Layout) -> Iterator[Block]:
    documents: list[IdArray] = []
    parts: list[IdArray] = []
    for ids, end in pieces:
        parts.append(ids)
        if end:
            documents.append(np.concatenate(parts))
            parts = []
        if len(documents) * layout.length >= ROOM:
            yield _fill(documents, layout)
            documents = []
    if documents:
        yield _fill(documents, layout)


def _fill(documents: list[IdArray], layout: Layout) -> Block:
    # The EOS that ends a document is real and predicted; in a `bos` context a document that is cut off has
    # none, since it does not end there. EOS is also what padding is made of, but that is not valid.
    room = layout.length - 1 if layout.context == "bos" else layout.length - 2
    rows = np.full((len(documents), layout.length), layout.eos_id, dtype=documents[0].dtype)
    rows[:, 0] = layout.bos_id
    lengths = np.empty(len(documents), dtype=np.int64)
    dropped = 0
    for row, ids in enumerate(documents):
        kept = ids[:room]
        rows[row, 1 : 1 + len(kept)] = kept
        lengths[row] = min(layout.length, len(kept) + 2)
        dropped += len(ids) - len(kept)
    return Block(rows, lengths, dropped)
