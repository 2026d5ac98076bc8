"""Measure how much of the validation and test text also stands, word for word, in the training text.

A character of a held-out document is *repeated* when it lies in a run of `RUN` or more characters that stands in
a training document; those of a document shorter than `RUN` are when the whole document is a training document.
Documents are compared as they are trained on, that is, after the detokenizer.

The hashes of all runs of held-out text are held in memory, sorted: 8 bytes a character of at most `EXAMINED`
characters, beyond which a seeded sample of the documents is taken (of one that is longer, its beginning). Training
text streams past them once, in chunks; a Bloom filter answers for nearly all of its runs without a search. So memory
does not grow with the data, and the time is that of reading the training text once.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bd3cli.data.cache import default_directory, writable_directory
from bd3cli.data.detokenizers import get_detokenizer
from bd3cli.data.documents import Documents, Mapped
from bd3cli.data.sources import Source, resolve
from bd3cli.data.splits import Split, seeded_subset
from bd3cli.data.windows import SEPARATOR, Hashes, chunks, code_points, distinct, window_hashes
from bd3cli.hashing import digest

if TYPE_CHECKING:
    from bd3cli.recipes.settings import DataConfig

RUN = 200  # characters; shorter runs are idiom, tables and headings as often as copies
TOLERATED = 0.01  # a larger share is worth a warning
EXAMINED = 4_000_000  # characters of each held-out split
LEAST_BITS, MOST_BITS = 16, 27  # of the index of the filter: 64 KiB to 128 MiB
MIXER = np.uint64(0xBF58476D1CE4E5B9)
CODE_VERSION = 1  # raise it when the same documents would give other figures
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Overlap:
    """What of one held-out split stands in the training split.

    Attributes:
        share: of the characters examined, those that do.
        repeated_characters: their number.
        characters: examined.
        documents: examined.
        of_documents: in the whole split; more than `documents` where a sample was examined.
        run: the shortest run of characters that counts.
    """

    share: float
    repeated_characters: int
    characters: int
    documents: int
    of_documents: int
    run: int = RUN


def overlap_of_splits(
    config: DataConfig, held_out: tuple[Split, ...] = ("validation", "test"), *, progress: Progress | None = None
) -> dict[Split, Overlap]:
    """The overlap of each of `held_out` with the training split of a configuration, kept in the cache.

    Raises:
        InputError: as `resolve_documents` does.
    """
    cache = default_directory()
    sources = {split: resolve(config, split, cache) for split in ("train", *held_out)}
    key = digest({"code": CODE_VERSION, "run": RUN, "sources": {s: source.identity for s, source in sources.items()}})
    kept = cache / "overlap" / f"{key}.json"
    try:
        return {split: Overlap(**value) for split, value in json.loads(kept.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # not there, or not whole
        pass
    texts = {split: _documents(source) for split, source in sources.items()}
    found = measure_overlap(texts["train"], {split: texts[split] for split in held_out}, progress=progress)
    _keep(writable_directory(cache) / "overlap" / kept.name, {split: asdict(value) for split, value in found.items()})
    return found


def measure_overlap(
    train: Documents, held_out: Mapping[Split, Documents], *, run: int = RUN, progress: Progress | None = None
) -> dict[Split, Overlap]:
    """The overlap of each held-out collection with `train`, in one pass over `train`.

    Args:
        progress: called with a stage, bytes of training text done and bytes in all (an estimate).
    """
    samples = {split: _sample(documents) for split, documents in held_out.items()}
    short = {text for texts in samples.values() for text in texts if len(text) < run}
    index = _Index([text for texts in samples.values() for text in texts], run)
    total, done = train.nbytes, 0
    whole: set[str] = set()  # short documents that are training documents
    for points, texts in chunks(train, run):
        whole |= short.intersection(texts)
        index.look_up(window_hashes(points, run))
        done += len(points)
        if progress is not None:
            progress("comparing", min(done, total), total)
    if progress is not None:
        progress("comparing", total, total)
    found = {}
    repeated = index.repeated()
    begin = 0
    for split, texts in samples.items():
        sizes = [len(text) for text in texts]
        here = repeated[begin : (begin := begin + sum(sizes) + len(texts))]
        count = int(here.sum()) + sum(len(text) for text in texts if text in whole)
        characters = sum(sizes)
        share = count / characters if characters else 0.0
        found[split] = Overlap(share, count, characters, len(texts), len(held_out[split]), run)
    return found


class _Index:
    """The runs of some texts, and which of them have been seen elsewhere."""

    def __init__(self, texts: list[str], run: int) -> None:
        self._run = run
        points = code_points("".join(text + SEPARATOR for text in texts))
        hashes = window_hashes(points, run)
        between = np.cumsum(np.concatenate([[0], points == ord(SEPARATOR)]), dtype=np.int32)
        self._length = len(points)
        self._starts = np.flatnonzero(between[run:] == between[: len(hashes)])  # runs within one document
        self._hashes = hashes[self._starts]
        self._keys = _Keys(self._hashes)
        self._seen = np.zeros(len(self._keys.values), dtype=np.bool_)

    def look_up(self, hashes: Hashes) -> None:
        """Mark the runs that are among `hashes`."""
        _, at = self._keys.find(hashes)
        self._seen[at] = True

    def repeated(self) -> npt.NDArray[np.bool_]:
        """Which characters lie in a run that was marked, ``[n]``: the texts end to end, a separator after each."""
        marked, _ = _Keys(self._keys.values[self._seen]).find(self._hashes)
        starts = self._starts[marked]
        steps = np.zeros(self._length + 1, dtype=np.int32)
        steps[starts] += 1
        steps[starts + self._run] -= 1
        return np.cumsum(steps[:-1]) > 0


class _Keys:
    """A set of hashes, sorted, behind a Bloom filter of two bits that spares nearly all others the search."""

    def __init__(self, hashes: Hashes) -> None:
        self.values = distinct(hashes)
        bits = min(max(LEAST_BITS, (16 * len(self.values)).bit_length()), MOST_BITS)
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, dtype=np.bool_)
        self._filter[self.values >> self._shift] = True
        self._filter[self._mixed(self.values)] = True

    def find(self, hashes: Hashes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """The indices of `hashes` that are in the set, and where in it they stand."""
        likely = np.flatnonzero(self._filter[hashes >> self._shift])
        likely = likely[self._filter[self._mixed(hashes[likely])]]
        likely = likely[np.argsort(hashes[likely])]  # so that the searches go through memory in order
        at = np.searchsorted(self.values, hashes[likely])
        at[at == len(self.values)] = 0
        found = self.values[at] == hashes[likely]
        return likely[found], at[found]

    def _mixed(self, hashes: Hashes) -> Hashes:
        return (hashes ^ (hashes >> np.uint64(29))) * MIXER >> self._shift


def _sample(documents: Documents) -> list[str]:
    """Their texts; of a collection larger than `EXAMINED`, a seeded sample of about that many characters."""
    size = documents.nbytes
    if size > EXAMINED:
        documents = seeded_subset(documents, -(-len(documents) * EXAMINED // size), 0)
    texts, room = [], EXAMINED
    for text in documents:
        texts.append(text[:room])
        room -= len(texts[-1])
        if room <= 0:
            break
    return texts


def _documents(source: Source) -> Documents:
    documents, _ = source.read()
    detokenize = get_detokenizer(source.detokenizer)
    return documents if detokenize is None else Mapped(documents, detokenize)


def _keep(path: Path, value: dict[str, Any]) -> None:
    """Write JSON whole or not at all; that it cannot be kept is no reason to stop."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
