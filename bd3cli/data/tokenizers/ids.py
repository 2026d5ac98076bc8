"""The tokenizer ``ids:N``: text that is token ids already, in decimal, separated by spaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bd3cli.data.tokenizers.base import IdArray, TextError, Tokenizer
from bd3cli.errors import InputError
from bd3cli.hashing import digest

PREFIX = "ids:"


class IdTokenizer(Tokenizer):
    """``ids:N``: ids 0 to N-1, of which the last begins and ends documents, and the mask N.

    For checkpoints whose tokenizer is not known, and for text that was tokenised elsewhere.
    """

    cuts_safely = True

    def __init__(self, name: str) -> None:
        number = name.removeprefix(PREFIX)
        if not number.isdecimal() or not 2 <= int(number) <= 1 << 24:
            raise InputError(f"Tokenizer {name!r} must be ids:N with a number of ids N from 2 to {1 << 24}.")
        self.name, self.size = name, int(number)
        self.bos_id = self.eos_id = self.size - 1
        self.mask_id, self.vocab_size = self.size, self.size + 1
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.int64)
        self.fingerprint = digest({"ids": self.size})

    @classmethod
    def load(cls, name: str) -> Tokenizer:
        return cls(name)

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset({self.bos_id, self.mask_id})

    def encode_array(self, text: str) -> IdArray:
        words = text.split()
        for word in words:
            if not (word.isascii() and word.isdecimal() and int(word[:9]) < self.size and len(word) < 9):
                raise TextError(
                    f"Tokenizer {self.name!r} reads token ids from 0 to {self.size - 1} separated by spaces, "
                    f"not {word[:40]!r}. Name the tokenizer the text is meant for."
                )
        return np.array([int(word) for word in words], dtype=self.dtype)

    def _decode_run(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))
