"""One disjoint 90/5/5 split for data that has no splits of its own."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from bd3cli.data.documents import Documents
from bd3cli.data.spans import Spans
from bd3cli.data.windows import groups_sharing
from bd3cli.hashing import random_keys, text_key

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT = 0.05
FEW_DOCUMENTS = 40
BY_DOCUMENT = (
    "90/5/5 by bytes: in the order of a hash of their text, documents (copies of one together) fill up "
    "validation and test, 5% each, and the rest are for training"
)
BY_GROUP = (
    "90/5/5 by bytes: documents that share a run of {run} characters, directly or through others, are kept together; "
    "in the order of a hash of their text these groups fill up validation and test, 5% each, and the rest are for "
    "training"
)
BY_PIECE = (
    "90/5/5 by bytes in contiguous pieces (documents too few or too unequal to share out): the first "
    "90% trains, the next 5% validates, the last 5% tests, cut between lines where there are any"
)


def split_documents(documents: Documents, shared_run: int | None = None) -> tuple[dict[Split, Documents], str]:
    """Split documents three ways, and say in words how. Depends on their content alone.

    Args:
        documents: to be divided.
        shared_run: keep documents together that share a run of this many characters, for collections whose
            documents quote one another; None keeps only copies of one document together. Such collections
            must fit in memory.
    """
    if len(documents) >= FEW_DOCUMENTS:
        parts = _by_hash(documents, shared_run)
        if parts is not None:
            return parts, BY_DOCUMENT if shared_run is None else BY_GROUP.format(run=shared_run)
    return _by_piece(documents), BY_PIECE


def _by_hash(documents: Documents, shared_run: int | None) -> dict[Split, Documents] | None:
    """Whole documents for each split; None when they do not fill at least half of what each should have."""
    keys = np.empty(len(documents), dtype=np.uint64)
    sizes = np.empty(len(documents), dtype=np.int64)
    for index, text in enumerate(documents):
        keys[index] = text_key(text)
        sizes[index] = len(text.encode("utf-8", "surrogatepass"))
    if shared_run is not None:
        keys = _least_of_group(keys, groups_sharing(documents, shared_run))
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


def _least_of_group(keys: npt.NDArray[np.uint64], group: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """For each document the least key in its group: it names the group by content, whatever the order."""
    least = keys.copy()
    np.minimum.at(least, group, keys)
    return least[group]


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
