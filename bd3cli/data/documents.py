"""Documents: an ordered collection of texts, read lazily where they are on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.integer]


class Documents(ABC):
    """Texts by position. Subclasses say how one is read; `take` gives a subset without reading any.

    Attributes:
        description: where they came from, filled in by `resolve_documents`.
    """

    description: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> str: ...

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """About how many bytes of text there are: for progress, not for accounting."""

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self)):
            yield self[index]

    def take(self, indices: IntArray) -> Documents:
        """The documents at `indices`, in that order."""
        return Subset(self, indices)

    def pieces(self, size: int) -> Iterator[tuple[str, bool]]:
        """The texts, each with whether a document ends with it.

        Where it can be done without changing how they are encoded, documents much longer than `size` bytes
        come in pieces.
        """
        return ((text, True) for text in self)


class Subset(Documents):
    """Some documents of another collection."""

    def __init__(self, base: Documents, indices: IntArray) -> None:
        self._base = base
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> str:
        return self._base[int(self._indices[index])]

    @property
    def nbytes(self) -> int:
        return self._base.nbytes * len(self) // max(1, len(self._base))

    def take(self, indices: IntArray) -> Documents:
        return self._base.take(self._indices[indices])


class Mapped(Documents):
    """Another collection with a function, such as a detokenizer, applied to each text as it is read."""

    def __init__(self, base: Documents, function: Callable[[str], str]) -> None:
        self._base = base
        self._function = function

    def __len__(self) -> int:
        return len(self._base)

    def __getitem__(self, index: int) -> str:
        return self._function(self._base[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._function, self._base)

    @property
    def nbytes(self) -> int:
        return self._base.nbytes

    def take(self, indices: IntArray) -> Documents:
        return Mapped(self._base.take(indices), self._function)
