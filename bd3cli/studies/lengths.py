"""How long documents are, in data and in samples of variable length.

Lengths are tokens of text: BOS and EOS are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from bd3cli.data.encoding import encode_documents

if TYPE_CHECKING:
    from bd3cli.data import Documents, Tokenizer
    from bd3cli.sampling import Sample

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class LengthSummary(TypedDict):
    """A row of ``bd3cli length-stats --json``; `quantiles` by their share of the texts."""

    name: str
    count: int
    median: float
    mean: float
    max: int
    quantiles: dict[str, float]
    cap: int | None
    capped: int
    stops: dict[str, int] | None


@dataclass(frozen=True)
class Lengths:
    """Lengths of a collection of texts.

    Attributes:
        name: of the data set or run.
        lengths: [n], each at least 0.
        cap: the most a sample could have; None for data.
        capped: how many ended there and not of themselves.
        stops: how many samples ended for which reason; empty for data.
    """

    name: str
    lengths: np.ndarray
    cap: int | None = None
    capped: int = 0
    stops: dict[str, int] | None = None

    def summary(self) -> LengthSummary:
        """A row of ``bd3cli length-stats --json``."""
        n = self.lengths
        return {
            "name": self.name,
            "count": len(n),
            "median": float(np.median(n)),
            "mean": float(n.mean()),
            "max": int(n.max()),
            "quantiles": {f"{q:g}": float(x) for q, x in zip(QUANTILES, np.quantile(n, QUANTILES), strict=True)},
            "cap": self.cap,
            "capped": self.capped,
            "stops": self.stops,
        }

    def histogram(self, edges: np.ndarray) -> np.ndarray:
        """Share of the texts in each of the bins between `edges` [bins + 1]."""
        return np.histogram(self.lengths, edges)[0] / len(self.lengths)


def document_lengths(name: str, documents: Documents, tokenizer: Tokenizer) -> Lengths:
    """Lengths of the documents of a data set; empty ones are left out, as in training."""
    lengths, size = [], 0
    for piece in encode_documents(documents, tokenizer):
        size += len(piece.ids)
        if piece.end:
            lengths.append(size)
            size = 0
    return Lengths(name, np.array(lengths, dtype=np.int64))


def sample_lengths(name: str, samples: Sequence[Sample], cap: int) -> Lengths:
    """Lengths of samples of variable length, generated with at most `cap` tokens, BOS and EOS included."""
    stops: dict[str, int] = {}
    for sample in samples:
        stops[sample.stop] = stops.get(sample.stop, 0) + 1
    lengths = [sample.length - 1 - (sample.stop == "eos") for sample in samples]
    return Lengths(name, np.array(lengths, dtype=np.int64), cap - 1, stops.get("length", 0), stops)


def bins(rows: Sequence[Lengths], most: int = 12) -> np.ndarray:
    """Edges of at most `most` equal bins that hold every row's lengths but the longest twentieth of the longest."""
    top = max(float(np.quantile(row.lengths, 0.95)) for row in rows)
    width = max(1, -(-int(top + 1) // (most - 1)))
    edges = np.arange(0, width * most, width, dtype=float)
    return np.append(edges, max(edges[-1] + width, *(float(row.lengths.max()) + 1 for row in rows)))
