"""Packing keeps every token of every document, once and in order."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bd3cli.data import packing
from bd3cli.data.packing import Block, Layout, Piece, pack

BOS, EOS = 300, 301
DOCUMENTS = st.lists(st.lists(st.integers(0, 255), max_size=40), max_size=25)
CONTEXTS = st.sampled_from(["bos", "bos-eos"])


def layout(length: int, mode: Literal["wrap", "pad"], context: Literal["bos", "bos-eos"]) -> Layout:
    return Layout(length, mode, context, BOS, EOS)


def in_pieces(document: list[int]) -> list[Piece]:
    """The ids of a document in pieces of 7; the last may be empty."""
    parts = [np.array(document[n : n + 7], dtype=np.uint16) for n in range(0, len(document) + 1, 7)]
    return [Piece(ids, number == len(parts)) for number, ids in enumerate(parts, 1)]


def packed(documents: list[list[int]], how: Layout) -> Block:
    pieces = [piece for d in documents if d for piece in in_pieces(d)]
    blocks = list(pack(iter(pieces), how))
    if not blocks:
        return Block(np.empty((0, how.length), np.uint16), np.empty(0, np.int64), 0)
    return Block(
        np.concatenate([b.rows for b in blocks]),
        np.concatenate([b.lengths for b in blocks]),
        sum(b.dropped for b in blocks),
    )


@given(DOCUMENTS, st.integers(3, 30), CONTEXTS, st.integers(1, 60))
def test_wrap_is_the_stream_of_documents_cut_up(
    documents: list[list[int]], length: int, context: Literal["bos", "bos-eos"], room: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROOM", room)  # so that carrying over between blocks happens often
        result = packed(documents, layout(length, "wrap", context))
    stream = [token for d in documents if d for token in [*d, EOS]]
    end = length if context == "bos" else length - 1
    assert (result.rows[:, 0] == BOS).all()
    assert (result.rows[:, end:] == EOS).all()
    body = result.rows[:, 1:end].reshape(-1).tolist()
    assert body == stream[: len(body)]
    assert result.dropped == len(stream) - len(body) < end - 1
    assert (result.lengths == length).all()


@given(DOCUMENTS, st.integers(3, 30), CONTEXTS, st.integers(1, 60))
def test_pad_is_one_document_a_row(
    documents: list[list[int]], length: int, context: Literal["bos", "bos-eos"], room: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROOM", room)
        result = packed(documents, layout(length, "pad", context))
    filled = [d for d in documents if d]
    assert len(result.rows) == len(filled)
    dropped = 0
    for row, valid, ids in zip(result.rows.tolist(), result.lengths.tolist(), filled, strict=True):
        kept = ids[: length - 2] if context == "bos-eos" else ids[: length - 1]
        dropped += len(ids) - len(kept)
        expected = [BOS, *kept, EOS][:length]
        assert row[:valid] == expected
        assert row[valid:] == [EOS] * (length - valid)
    assert result.dropped == dropped


def test_a_document_longer_than_a_padded_row_does_not_end_there() -> None:
    rows = packed([[1, 2, 3, 4, 5]], layout(4, "pad", "bos")).rows
    assert rows.tolist() == [[BOS, 1, 2, 3]]
    rows = packed([[1, 2, 3, 4, 5]], layout(4, "pad", "bos-eos")).rows
    assert rows.tolist() == [[BOS, 1, 2, EOS]]


def test_type_of_ids_is_kept() -> None:
    block = next(pack(iter([Piece(np.arange(50, dtype=np.uint32), True)]), layout(8, "wrap", "bos")))
    assert block.rows.dtype == np.uint32
