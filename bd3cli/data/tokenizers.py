"""Tokenizers: text to ids and back, with the special ids a diffusion model needs spelled out."""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bd3cli.data.files import exists
from bd3cli.data.runs_of_space import LONG, long_runs
from bd3cli.data.tiktoken_files import (
    BOS,
    ENDOFTEXT,
    EOS,
    encoding_names,
    is_openai,
    load_encoding,
    read_tiktoken_file,
)
from bd3cli.errors import InputError
from bd3cli.hashing import digest

if TYPE_CHECKING:
    import tiktoken

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
        return [int(i) for i in self.encode_array(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[IdArray]:
        """`encode_array` of each text."""
        return [self.encode_array(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special ids are dropped and invalid UTF-8 is replaced."""
        special = self.special_ids
        return self._decode_run([i for i in map(int, ids) if i not in special])

    def decode_with_masks(self, ids: Iterable[int], mask_char: str = "░") -> str:
        """Text of a partly masked sequence: `mask_char` for each mask, other special ids dropped."""
        kept = [i for i in map(int, ids) if i == self.mask_id or i not in self.special_ids]
        runs = ((masked, list(run)) for masked, run in groupby(kept, key=lambda i: i == self.mask_id))
        return "".join(mask_char * len(run) if masked else self._decode_run(run) for masked, run in runs)


class TiktokenTokenizer(Tokenizer):
    """A tiktoken encoding; BOS and EOS are among its special tokens, the mask is one id more."""

    cuts_safely = True

    def __init__(self, name: str, encoding: tiktoken.Encoding, bos_id: int, eos_id: int) -> None:
        self.name = name
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.size = self.mask_id = encoding.n_vocab
        self.vocab_size = self.size + 1
        self._encoding = encoding
        self._is_openai = is_openai(encoding)
        # Ids that are in no table (some encodings have gaps) decode to nothing, like special ones.
        self._bytes = [b""] * self.vocab_size
        ranks = encoding._mergeable_ranks
        for token, rank in ranks.items():
            self._bytes[rank] = token
        self._special = frozenset(range(self.vocab_size)) - frozenset(ranks.values())
        self.token_bytes = np.array([len(token) for token in self._bytes], dtype=np.int64)
        self.fingerprint = digest(
            {
                "pattern": encoding._pat_str,
                "ranks": [token.hex() for token in self._bytes],
                "specials": [bos_id, eos_id, self.mask_id],
            }
        )

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special

    def encode_array(self, text: str) -> IdArray:
        # Not `encode_to_numpy`: in older releases of tiktoken it turns special text into special ids.
        with native(self.name, text):
            return np.array(self._encode(valid_unicode(text)), dtype=self.dtype)

    def _encode(self, text: str) -> list[int]:
        if len(text) < LONG or not self._is_openai:
            return self._encoding.encode_ordinary(text)
        ids: list[int] = []
        for part, whole in long_runs(text, self._encoding._pat_str):
            # A run of white space that is one piece of the pattern is merged without the pattern.
            ids += self._encoding._encode_single_piece(part) if whole else self._encoding.encode_ordinary(part)
        return ids

    def _decode_run(self, ids: Sequence[int]) -> str:
        return b"".join([self._bytes[i] for i in ids]).decode("utf-8", "replace")


class BytesTokenizer(TiktokenTokenizer):
    """One id a byte. The encoding is tiktoken's; encoding a text is a copy of its bytes, so it is done so."""

    def __init__(self) -> None:
        import tiktoken

        encoding = tiktoken.Encoding(
            "bytes",
            pat_str=r"[\s\S]",
            mergeable_ranks={bytes([byte]): byte for byte in range(256)},
            special_tokens={BOS: 256, EOS: 257},
        )
        super().__init__("bytes", encoding, bos_id=256, eos_id=257)

    def encode_array(self, text: str) -> IdArray:
        return np.frombuffer(valid_unicode(text).encode(), dtype=np.uint8).astype(self.dtype)


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


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer: ``"bytes"``, a tiktoken encoding, a ``.tiktoken`` file, ``"hf:NAME"``, or ``"ids:N"``.

    Raises:
        InputError: unknown name, malformed file, or one that must be downloaded when there is no network.
    """
    if name == "bytes":
        return BytesTokenizer()
    if name.startswith("hf:"):
        from bd3cli.data.hf_tokenizers import load_hf_tokenizer

        return load_hf_tokenizer(name)
    if name.startswith("ids:"):
        from bd3cli.data.id_tokenizer import IdTokenizer

        return IdTokenizer(name)
    if name in encoding_names() or not (name.endswith(".tiktoken") or exists(Path(name).expanduser())):
        encoding = load_encoding(name)
    else:
        encoding = read_tiktoken_file(Path(name).expanduser())
    specials = encoding._special_tokens
    end = specials.get(ENDOFTEXT)
    if end is None:
        raise InputError(
            f"Tokenizer {name!r} has no {ENDOFTEXT} token to separate documents with; it has "
            f"{', '.join(specials) or 'no special token'}. Use 'bytes' or 'gpt2'."
        )
    return TiktokenTokenizer(name, encoding, bos_id=end, eos_id=end)
