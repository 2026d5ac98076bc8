"""One disjoint 90/5/5 split for data that has no splits of its own."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from bd3cli.data.documents import Documents, TextList
from bd3cli.data.hashing import random_keys, text_key

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT = 0.05
FEW_DOCUMENTS = 40
BY_DOCUMENT = (
    "90/5/5 by bytes: in the order of a hash of their text, documents (copies of one together) fill up "
    "validation and test, 5% each, and the rest are for training"
)
BY_PIECE = (
    "90/5/5 by characters in contiguous pieces (documents too few or too unequal to share out): the first "
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
    texts = list(documents)
    total = sum(map(len, texts))
    first = _cut_point(texts, round(total * (1 - 2 * HELD_OUT)))
    second = max(first, _cut_point(texts, round(total * (1 - HELD_OUT))))
    bounds: dict[Split, tuple[int, int]] = {
        "train": (0, first),
        "validation": (first, second),
        "test": (second, total),
    }
    return {split: TextList(_slice(texts, *bound)) for split, bound in bounds.items()}


def _cut_point(texts: list[str], target: int) -> int:
    """The character offset, over all texts, after the last line (else word) that ends before `target`."""
    start = 0
    for text in texts:
        if start + len(text) > target:
            head = text[: target - start]
            for boundary in (r"\n", r"\s"):
                found = max((m.end() for m in re.finditer(boundary, head[-20_000:])), default=0)
                if found:
                    return start + max(0, len(head) - 20_000) + found
            return target if len(texts) == 1 else start
        start += len(text)
    return start


def _slice(texts: list[str], begin: int, end: int) -> list[str]:
    pieces, start = [], 0
    for text in texts:
        piece = text[max(0, begin - start) : max(0, end - start)]
        if piece.strip():
            pieces.append(piece)
        start += len(text)
    return pieces


def seeded_subset(documents: Documents, count: int, seed: int) -> Documents:
    """`count` documents chosen by `seed`, in their own order; a larger count keeps those of a smaller one."""
    if count >= len(documents):
        return documents
    chosen = np.argsort(random_keys(len(documents), seed), kind="stable")[:count]
    return documents.take(np.sort(chosen))
