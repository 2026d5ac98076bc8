"""The tokenizer a name stands for."""

from __future__ import annotations

import functools
from pathlib import Path

from bd3cli.data.files import exists
from bd3cli.data.tokenizers.base import Tokenizer
from bd3cli.data.tokenizers.files import (
    ENDOFTEXT,
    encoding_names,
    load_encoding,
    read_tiktoken_file,
)
from bd3cli.data.tokenizers.tiktoken import BytesTokenizer, TiktokenTokenizer
from bd3cli.errors import InputError


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer: ``"bytes"``, a tiktoken encoding, a ``.tiktoken`` file, ``"hf:NAME"``, or ``"ids:N"``.

    Raises:
        InputError: unknown name, malformed file, or one that must be downloaded when there is no network.
    """
    if name == "bytes":
        return BytesTokenizer()
    if name.startswith("hf:"):
        from bd3cli.data.tokenizers.hf import load_hf_tokenizer

        return load_hf_tokenizer(name)
    if name.startswith("ids:"):
        from bd3cli.data.tokenizers.ids import IdTokenizer

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
