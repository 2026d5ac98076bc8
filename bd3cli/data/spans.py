"""Documents that are spans of UTF-8 text in buffers: files mapped into memory, or bytes."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bd3cli.data.documents import Documents, IntArray

# Between these characters every pattern of OpenAI's encodings ends one piece and begins another, so a text
# may be cut there without changing its ids.
SAFE_CUT = re.compile(rb"(?<=[!-~])\n(?=\w)|\n(?= \w)")
NEAR = 20_000  # bytes looked back over for the end of a line


class Spans(Documents):
    """Spans of buffers: ``spans[i]`` is the buffer's number, and where in it document i begins and ends."""

    def __init__(self, buffers: Sequence[bytes | mmap.mmap], spans: IntArray) -> None:
        self._buffers = buffers
        self._spans: npt.NDArray[np.int64] = np.asarray(spans, dtype=np.int64).reshape(-1, 3)

    @classmethod
    def of(cls, texts: Sequence[str]) -> Spans:
        """Texts held in memory."""
        buffers = [text.encode("utf-8", "surrogatepass") for text in texts]
        return cls(buffers, np.array([(n, 0, len(buffer)) for n, buffer in enumerate(buffers)]))

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> str:
        return self._text(*self._spans[index].tolist())

    @property
    def nbytes(self) -> int:
        return int(self._sizes().sum())

    def take(self, indices: IntArray) -> Spans:
        return Spans(self._buffers, self._spans[indices])

    def pieces(self, size: int) -> Iterator[tuple[str, bool]]:
        for number, begin, end in self._spans.tolist():
            while end - begin > size:
                match = SAFE_CUT.search(self._buffers[number], begin + size, end)
                if match is None:
                    break
                yield self._text(number, begin, match.end()), False
                begin = match.end()
            yield self._text(number, begin, end), True

    def divide(self, shares: Sequence[float]) -> list[Spans]:
        """Contiguous parts with about these shares of the bytes, cut between lines or words; blanks left out."""
        ends = np.cumsum(self._sizes())
        total = int(ends[-1]) if len(ends) else 0
        cuts = [self._line_end(ends, round(total * share)) for share in np.cumsum(shares)[:-1]]
        bounds = [0, *np.maximum.accumulate(cuts).tolist(), total]
        return [self._between(ends, *bound) for bound in pairwise(bounds)]

    def _sizes(self) -> npt.NDArray[np.int64]:
        return self._spans[:, 2] - self._spans[:, 1]

    def _text(self, number: int, begin: int, end: int) -> str:
        data: bytes = self._buffers[number][begin:end]
        return data.decode("utf-8", "surrogatepass")

    def _line_end(self, ends: npt.NDArray[np.int64], offset: int) -> int:
        """The end of the last line (else word, else character) before `offset` of the text put end to end."""
        index = int(np.searchsorted(ends, offset, side="right"))
        if index == len(ends):
            return offset
        number, begin, end = map(int, self._spans[index])
        at = offset - int(ends[index]) + end
        for boundary in (b"\n", b" "):
            found: int = self._buffers[number].rfind(boundary, max(begin, at - NEAR), at)
            if found >= 0:
                return offset - (at - found - 1)
        while at > begin and self._buffers[number][at] & 0xC0 == 0x80:  # inside a character
            at -= 1
            offset -= 1
        return offset

    def _between(self, ends: npt.NDArray[np.int64], low: int, high: int) -> Spans:
        starts = ends - self._sizes()
        spans = self._spans.copy()
        spans[:, 2] -= np.maximum(0, ends - high)
        spans[:, 1] += np.maximum(0, low - starts)
        filled = [n for n in np.flatnonzero(spans[:, 1] < spans[:, 2]) if self._text(*spans[n].tolist()).strip()]
        return Spans(self._buffers, spans[filled])
