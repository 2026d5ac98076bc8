"""The base class of tokenizers, with the special ids that a diffusion model needs."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from bd3cli.errors import InputError
from bd3cli.faults import broken, kind_of
from bd3cli.spec import build, parse_spec

IdArray = npt.NDArray[np.integer[Any]]


class Tokenizer(ABC):
    """Ids 0..size-1 are the tokenizer's own (special ones included); the mask comes after them.

    Attributes:
        name: as it was asked for, for example ``"gpt2"``.
        size: number of ids apart from the mask.
        bos_id, eos_id: id that starts a context, and id that ends a document; they may be the same one.
        mask_id: ``size``, unless the tokenizer has a mask token of its own.
        vocab_size: rows of a model's embedding: every id, the mask among them.
        dtype: the smallest unsigned type that holds every id.
        token_bytes: UTF-8 bytes of each id, ``[vocab_size]``; 0 for special ids.
        fingerprint: hash of everything that decides how text is encoded.
        cuts_safely: whether a long text may be cut between lines without changing its ids.
    """

    name: str
    size: int
    bos_id: int
    eos_id: int
    mask_id: int
    vocab_size: int
    token_bytes: npt.NDArray[np.int64]
    fingerprint: str
    cuts_safely: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    @classmethod
    def load(cls, name: str) -> Tokenizer:
        """The tokenizer that `name`, as registered, with parameters or not, asks for.

        Raises:
            InputError: unknown parameter, or a value that it cannot have.
        """
        made = build(cls, parse_spec(name), "tokenizer")
        object.__setattr__(made, "name", name)  # even where it is frozen
        return made

    @abstractmethod
    def encode_array(self, text: str) -> IdArray:
        """Ids of `text` as an array of `dtype`; no special ids, and special text is ordinary text."""

    @abstractmethod
    def _decode_run(self, ids: Sequence[int]) -> str:
        """Text of ids of which none is special."""

    @property
    @abstractmethod
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: BOS, EOS, the mask and any other."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special ids; text that looks like a special token is ordinary text."""
        return [int(i) for i in checked_ids(self, self.encode_array(text))]

    def encode_batch(self, texts: Sequence[str]) -> list[IdArray]:
        """`encode_array` of each text."""
        return [checked_ids(self, self.encode_array(text)) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special ids are dropped and invalid UTF-8 is replaced."""
        special = self.special_ids
        return self._decode_run([i for i in map(int, ids) if i not in special])

    def decode_with_masks(self, ids: Iterable[int], mask_char: str = "░") -> str:
        """Text of a partly masked sequence: `mask_char` for each mask, other special ids dropped."""
        kept = [i for i in map(int, ids) if i == self.mask_id or i not in self.special_ids]
        runs = ((masked, list(run)) for masked, run in groupby(kept, key=lambda i: i == self.mask_id))
        return "".join(mask_char * len(run) if masked else self._decode_run(run) for masked, run in runs)


def checked_ids(tokenizer: Tokenizer, ids: Any) -> IdArray:
    """`ids`, seen to be ids of text: whatever else a plugin gives would surface far from its cause.

    Raises:
        PluginError: naming the tokenizer and what it gave.
    """
    wrong = None
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        told = f"{ids.dtype}{list(ids.shape)}" if isinstance(ids, np.ndarray) else kind_of(ids)
        wrong = f"returned {told}; it must return whole numbers in one dimension, an array of self.dtype"
    elif len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size:
        bad = int(ids.max()) if int(ids.min()) >= 0 else int(ids.min())
        wrong = f"returned the id {bad}; ids lie from 0 to {tokenizer.vocab_size - 1}"
    if wrong is not None:
        raise broken(type(tokenizer).encode_array, wrong, type(tokenizer))
    found: IdArray = ids
    return found


class TextError(InputError):
    """A text that a tokenizer cannot encode; whoever knows where it came from adds that."""


@contextlib.contextmanager
def native(name: str, text: str) -> Iterator[None]:
    """Turn a panic of a tokenizer's Rust code, which is no `Exception` and cannot be pickled, into an error."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a module that cannot be imported
            raise
        raise TextError(
            f"Tokenizer {name!r} broke down ({' '.join(str(error).split())[:200]}) on a text of {len(text)} "
            f"characters that begins {text[:40]!r}. Break it into lines or documents, or use 'bytes'."
        ) from None


def valid_unicode(text: str) -> str:
    """`text` with surrogate pairs joined and lone surrogates (which are not text) replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
