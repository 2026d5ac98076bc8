"""Hashes of all windows of n characters of a text, from which repeated text is found."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bd3cli.data.documents import Documents
from bd3cli.hashing import text_key

Hashes = npt.NDArray[np.uint64]
Points = npt.NDArray[np.uint32]
SEPARATOR = "\U0010ffff"  # a noncharacter of Unicode, set between documents so that no run reaches over two
CHUNK = 1 << 18  # characters hashed at once; the arrays of one chunk fit the processor's cache
BASE = 0xD1342543DE82EF95  # odd, hence invertible modulo 2^64


def code_points(text: str) -> Points:
    """The characters of a text, ``[n]``."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def window_hashes(points: Points, width: int) -> Hashes:
    """A 64-bit hash of each run of `width` characters, ``[n - width + 1]``; equal runs have equal hashes.

    Polynomials in `BASE` modulo 2^64, by differences of prefix sums: a few vector operations a character,
    whatever the width. The high bits are the well mixed ones.
    """
    out = np.empty(max(0, len(points) - width + 1), dtype=np.uint64)
    powers, inverses = _powers(CHUNK + width)
    for begin in range(0, len(out), CHUNK):
        chunk = points[begin : begin + CHUNK + width - 1].astype(np.uint64)
        sums = np.zeros(len(chunk) + 1, dtype=np.uint64)
        np.cumsum(chunk * powers[: len(chunk)], out=sums[1:])
        part = out[begin : begin + CHUNK]
        np.multiply(sums[width:] - sums[: len(part)], inverses[: len(part)], out=part)
    return out


def distinct(hashes: Hashes) -> Hashes:
    """The different hashes, sorted; many times faster than `numpy.unique`, which looks each up in a table."""
    ordered = np.sort(hashes)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


@functools.cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    def of(base: int) -> Hashes:
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        return np.cumprod(factors, dtype=np.uint64)

    return of(BASE), of(pow(BASE, -1, 1 << 64))


def chunks(documents: Documents, width: int) -> Iterator[tuple[Points, list[str]]]:
    """The characters of documents in chunks that hold, between them, every run of `width`; documents read whole.

    Beside each chunk are the documents that came in one piece and end in it. No more than about a chunk is held
    beyond what `Documents.pieces` gives at once.
    """
    parts: list[str] = []
    whole: list[str] = []
    size, begins = 0, True
    for text, ends in documents.pieces(CHUNK):
        parts += (text, SEPARATOR) if ends else (text,)
        if begins and ends:
            whole.append(text)
        begins = ends
        size += len(text) + ends
        if size >= CHUNK:
            joined = "".join(parts)
            yield code_points(joined), whole
            parts, whole, size = [joined[len(joined) - width + 1 :]], [], 0
    yield code_points("".join(parts)), whole


def groups_sharing(documents: Documents, width: int) -> npt.NDArray[np.int64]:
    """A number for each document, ``[n]``: equal for two that share a run of `width` characters.

    Equal, too, for two that are linked through others, and for copies of one document. For collections that
    fit in memory.
    """
    keys, owners = [], []
    for index, text in enumerate(documents):
        runs = distinct(window_hashes(code_points(text), width))
        keys.append(runs if len(runs) else np.array([text_key(text)], dtype=np.uint64))
        owners.append(np.full(len(keys[-1]), index))
    group = np.arange(len(documents))
    if not keys:
        return group
    order = np.argsort(np.concatenate(keys), kind="stable")
    sorted_keys, sorted_owners = np.concatenate(keys)[order], np.concatenate(owners)[order]
    same = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
    links = np.unique(np.stack([sorted_owners[same], sorted_owners[same + 1]], axis=1), axis=0)
    for one, other in links.tolist():
        group[group == group[other]] = group[one]
    return group
