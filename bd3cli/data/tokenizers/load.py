"""The tokenizer a name stands for."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bd3cli.data.tokenizers.base import Tokenizer
from bd3cli.data.tokenizers.tiktoken import TiktokenTokenizer
from bd3cli.faults import PluginError, owner_of, subject_of
from bd3cli.plugins import load_plugins

NUMBERS = ("size", "bos_id", "eos_id", "mask_id", "vocab_size")


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer: ``"bytes"``, a plugin's, a tiktoken encoding, a ``.tiktoken`` file, ``"hf:NAME"``, ``"ids:N"``.

    Raises:
        InputError: unknown name, malformed file, or one that must be downloaded when there is no network.
        PluginError: a plugin's that is not what a tokenizer must be.
    """
    key, registry = name.partition(":")[0], load_plugins().registry["tokenizer"]
    if key not in registry:
        return TiktokenTokenizer.load(name)  # a file, or an encoding that another package adds to tiktoken
    cls: type[Tokenizer] = registry.get(key)
    tokenizer = cls.load(name)
    if registry.entry(key).distribution != "bd3cli":
        _require_sound(tokenizer)
    return tokenizer


def _require_sound(tokenizer: Any) -> None:
    """Refuse a plugin's tokenizer whose attributes contradict one another.

    Raises:
        PluginError: naming the attribute and its value.
    """
    for name in NUMBERS:
        value = getattr(tokenizer, name, None)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _unsound(tokenizer, f"{name} is {value!r}; it must be a whole number")
    t = tokenizer
    if t.vocab_size != t.size + 1:
        raise _unsound(t, f"vocab_size is {t.vocab_size}; it must be one more than size, {t.size}, for the mask")
    for name in ("bos_id", "eos_id", "mask_id"):
        value = getattr(t, name)
        if not 0 <= value < t.vocab_size:
            raise _unsound(t, f"{name} is {value}; it must lie from 0 to {t.vocab_size - 1}")
        if value not in t.special_ids:
            raise _unsound(t, f"special_ids lacks {name}, which is {value}")
    if t.mask_id in (t.bos_id, t.eos_id):
        raise _unsound(t, f"mask_id is {t.mask_id}, which begins or ends documents; it must be an id of its own")
    counts = getattr(t, "token_bytes", None)
    if not isinstance(counts, np.ndarray) or counts.shape != (t.vocab_size,) or counts.dtype.kind not in "iu":
        raise _unsound(t, f"token_bytes must be an array of {t.vocab_size} whole numbers, the UTF-8 bytes of each id")
    if not isinstance(getattr(t, "fingerprint", None), str) or not t.fingerprint:
        raise _unsound(t, "fingerprint must be a hash of everything that decides how text is encoded")


def _unsound(tokenizer: Any, wrong: str) -> PluginError:
    cls = type(tokenizer)
    owner = owner_of(cls.__module__)
    return PluginError(f"{subject_of(cls) or cls.__qualname__}{f' of {owner}' if owner else ''} is broken: {wrong}.")
