"""Tokenizers on tiktoken's encodings: the published ones, and plain bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bd3cli.data.files import exists
from bd3cli.data.runs_of_space import LONG, long_runs
from bd3cli.data.tokenizers.base import IdArray, Tokenizer, native, valid_unicode
from bd3cli.data.tokenizers.files import (
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

    @classmethod
    def load(cls, name: str) -> Tokenizer:
        """A tiktoken encoding by name, or a ``.tiktoken`` file."""
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

    @classmethod
    def load(cls, name: str) -> Tokenizer:
        if name != "bytes":
            raise InputError(f"Tokenizer 'bytes' takes no parameters, not {name!r}.")
        return cls()

    def encode_array(self, text: str) -> IdArray:
        return np.frombuffer(valid_unicode(text).encode(), dtype=np.uint8).astype(self.dtype)
