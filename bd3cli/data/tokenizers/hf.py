"""Tokenizers of `transformers`, for models that were trained with one, such as ``hf:bert-base-uncased``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bd3cli.data.files import exists
from bd3cli.data.hub_libraries import brief, hub_access, no_network
from bd3cli.data.packing import IdArray
from bd3cli.data.tokenizers.base import Tokenizer, native, valid_unicode
from bd3cli.errors import InputError


class HFTokenizer(Tokenizer):
    """A fast tokenizer of `transformers`. CLS and SEP stand in for BOS and EOS where it has none.

    Byte counts are exact for byte-level tokenizers. For others they count what an id adds to the text: a
    word's bytes and the space before it; what normalisation took away (case, accents) is not counted.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name = name
        self._tokenizer = tokenizer
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.bos_id = tokenizer.cls_token_id if bos is None else bos
        self.eos_id = tokenizer.sep_token_id if eos is None else eos
        if self.eos_id is None or self.bos_id is None:
            raise InputError(
                f"Tokenizer {name!r} has no token to begin a context or end a document with. Use another, "
                "such as 'bytes' or 'gpt2'."
            )
        own_mask = tokenizer.mask_token_id
        self.vocab_size = len(tokenizer) + (own_mask is None)
        self.size = self.vocab_size - 1
        self.mask_id = self.size if own_mask is None else own_mask
        self._special = frozenset(tokenizer.all_special_ids) | {self.bos_id, self.eos_id, self.mask_id}
        tokens: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        measure = _measure(tokenizer)
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.int64)
        for number, token in enumerate(tokens):
            if number not in self._special and token is not None:
                self.token_bytes[number] = measure(token)
        self.fingerprint = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    @classmethod
    def load(cls, name: str) -> Tokenizer:
        if not name.removeprefix("hf:") or name == "hf":
            raise InputError(f"Tokenizer {name!r} needs a name or a directory: hf:NAME.")
        return load_hf_tokenizer(name)

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special

    def encode_array(self, text: str) -> IdArray:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[IdArray]:
        with native(self.name, max(texts, key=len, default="")):
            encoded = self._tokenizer(
                [valid_unicode(text) for text in texts],
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                verbose=False,
            )
        return [np.array(ids, dtype=self.dtype) for ids in encoded["input_ids"]]

    def _decode_run(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _measure(tokenizer: Any) -> Any:
    """A function from a token to the bytes of text it stands for."""
    decoder = type(tokenizer.backend_tokenizer.decoder).__name__
    if decoder == "ByteLevel":
        return len  # one character a byte
    if decoder == "WordPiece":
        return lambda token: len(token[2:].encode()) if token.startswith("##") else 1 + len(token.encode())
    return lambda token: 1 if _is_byte(token) else len(token.replace("▁", " ").encode())


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def load_hf_tokenizer(name: str) -> HFTokenizer:
    """Load ``"hf:NAME"``, from the cache of the hub when it cannot be reached.

    Raises:
        InputError: `transformers` is not installed, no such tokenizer, or it has to be downloaded and cannot.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"Tokenizer {name!r} needs `transformers`, which is not installed. Run pip install 'bd3cli[hf]', "
            "or use 'bytes' or 'gpt2'."
        ) from error
    path = name.removeprefix("hf:")
    with no_network() if exists(Path(path)) else hub_access() as online:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=not online)
        except Exception as error:
            cause = brief(error) if online else "it is not in the hub's cache, and the hub cannot be reached"
            raise InputError(
                f"Tokenizer {name!r} could not be loaded: {cause}. Check the name, give a local directory as "
                "hf:DIRECTORY, or use 'bytes'."
            ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"Tokenizer {name!r} has no fast version. Use another, such as 'bytes' or 'gpt2'.")
    return HFTokenizer(name, tokenizer)
