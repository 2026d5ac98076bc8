"""One disjoint 90/5/5 split for data that has no splits of its own."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bd3cli.data.documents import Documents
from bd3cli.data.hashing import random_keys, text_key
from bd3cli.data.spans import Spans

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT = 0.05
FEW_DOCUMENTS = 40
BY_DOCUMENT = (
    "90/5/5 by bytes: in the order of a hash of their text, documents (copies of one together) fill up "
    "validation and test, 5% each, and the rest are for training"
)
BY_PIECE = (
    "90/5/5 by bytes in contiguous pieces (documents too few or too unequal to share out): the first "
    "90% trains, the next 5% validates, the last 5% tests, cut between lines where there are any"
)


def split_documents(documents: Documents) -> tuple[dict[Split, Documents], str]:
    """Split documents three ways, and say in words how. Depends on their content alone."""
    if len(documents) >= FEW_DOCUMENTS:
        parts = _by_hash(documents)
        if parts is not None:
            return parts, BY_DOCUMENT
    return _by_piece(documents), BY_PIECE


def _by_hash(documents: Documents) -> dict[Split, Documents] | None:
    """Whole documents for each split; None when they do not fill at least half of what each should have."""
    keys = np.empty(len(documents), dtype=np.uint64)
    sizes = np.empty(len(documents), dtype=np.int64)
    for index, text in enumerate(documents):
        keys[index] = text_key(text)
        sizes[index] = len(text.encode("utf-8", "surrogatepass"))
    groups, group_of = np.unique(keys, return_inverse=True)
    group_sizes = np.zeros(len(groups), dtype=np.int64)
    np.add.at(group_sizes, group_of, sizes)
    share = HELD_OUT * int(sizes.sum())
    room = {1: share, 2: share}  # of validation and test, by their index in SPLITS
    owner = np.zeros(len(groups), dtype=np.int8)
    for group, size in enumerate(group_sizes.tolist()):
        emptier = 1 if room[1] >= room[2] else 2
        if size <= room[emptier]:
            room[emptier] -= size
            owner[group] = emptier
    if max(room.values()) > share / 2:
        return None
    return {split: documents.take(np.flatnonzero(owner[group_of] == n)) for n, split in enumerate(SPLITS)}


def _by_piece(documents: Documents) -> dict[Split, Documents]:
    spans = documents if isinstance(documents, Spans) else Spans.of(list(documents))
    shares = [1 - 2 * HELD_OUT, HELD_OUT, HELD_OUT]
    return dict(zip(SPLITS, spans.divide(shares), strict=True))


def seeded_subset(documents: Documents, count: int, seed: int) -> Documents:
    """`count` documents chosen by `seed`, in their own order; a larger count keeps those of a smaller one."""
    if count >= len(documents):
        return documents
    chosen = np.argsort(random_keys(len(documents), seed), kind="stable")[:count]
    return documents.take(np.sort(chosen))
