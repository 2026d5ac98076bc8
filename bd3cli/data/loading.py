"""`load_split`: a configuration to contexts of tokens, tokenised once and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bd3cli.data.cache import Entry, default_directory, load_or_build
from bd3cli.data.encoding import encode_documents
from bd3cli.data.packing import Block, Layout, Piece, pack
from bd3cli.data.sources import resolve
from bd3cli.data.splits import SPLITS, Split
from bd3cli.data.tokenizers.base import TextError, Tokenizer
from bd3cli.data.tokenizers.load import load_tokenizer
from bd3cli.errors import InputError, did_you_mean
from bd3cli.hashing import digest
from bd3cli.plugins import registered

if TYPE_CHECKING:
    from bd3cli.recipes.settings import DataConfig

CODE_VERSION = 1  # raise it when the same input would give other tokens
Progress = Callable[[str, int, int], None]


class PackedSplit:
    """Contexts of tokens of one split, ``[n, L]``, on disk.

    Attributes:
        length: L.
        documents: how many documents they were made of.
        n_tokens: tokens a model predicts: those that are not padding, BOS at position 0 not counted.
        fingerprint: hash of the ids, the length and the tokenizer, wherever the cache is.
        description: what a run records of its data.
    """

    def __init__(self, entry: Entry, tokenizer: Tokenizer, description: dict[str, Any]) -> None:
        self._rows = entry.rows
        self._lengths = entry.lengths
        self.length: int = entry.rows.shape[1]
        self.fingerprint = digest([entry.sha256, self.length, tokenizer.fingerprint])
        self.documents: int = entry.facts["documents"]
        valid = len(self) * self.length if self._lengths is None else int(self._lengths.sum())
        self.n_tokens: int = valid - len(self)
        self.description = {**description, "fingerprint": self.fingerprint}

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Ids of the contexts at `indices`, ``[n, L]``."""
        return np.asarray(self._rows[np.asarray(indices, dtype=np.int64)], dtype=np.int64)

    def valid(self, indices: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which positions of the contexts at `indices` are not padding, ``[n, L]``; BOS is not padding."""
        chosen = np.asarray(indices, dtype=np.int64)
        if self._lengths is None:
            return np.ones((len(chosen), self.length), dtype=np.bool_)
        return np.asarray(np.arange(self.length) < self._lengths[chosen][:, None])


def _provider(tokenizer: str) -> dict[str, Any]:
    """The distribution and version of a plugin's tokenizer: of its code a fingerprint only knows so much."""
    used = registered({"tokenizer": tokenizer}).get("tokenizer")
    return {} if used is None or used["distribution"] == "bd3cli" else {"provider": used}


def load_split(
    config: DataConfig,
    split: Split,
    length: int,
    *,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
) -> PackedSplit:
    """The contexts of one split, tokenised now or taken from the cache.

    Args:
        config: which data, tokenizer and packing.
        split: ``train``, ``validation`` or ``test``.
        length: tokens in a context, BOS included.
        progress: called with a stage, bytes done and bytes in all (an estimate until the last call).
        cache_dir: instead of ``$BD3CLI_CACHE`` or the platform's cache directory.

    Raises:
        InputError: anything in the data or its description that the user must put right.
    """
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}.{did_you_mean(split, SPLITS)} Splits: {', '.join(SPLITS)}.")
    shortest = 2 if config.context == "bos" else 3
    if length < shortest:
        raise InputError(f"A context of {length} tokens has no room for text. Use at least {shortest}.")
    tokenizer = load_tokenizer(config.tokenizer)
    cache = cache_dir or default_directory()
    source = resolve(config, split, cache)
    name = source.facts["dataset"]
    layout = Layout(length, config.packing, config.context, tokenizer.bos_id, tokenizer.eos_id)

    def build() -> tuple[Iterable[Block], Callable[[], dict[str, Any]]]:
        documents, facts = source.read()
        if not len(documents):
            raise InputError(f"The {split} split of {name} is empty. Give more text, or name a file with data.{split}.")
        counts = {"documents": 0, "bytes": 0, "tokens": 0, "sequences": 0, "dropped_tokens": 0}
        total = documents.nbytes

        def read(nbytes: int) -> None:
            counts["bytes"] += nbytes
            if progress is not None:
                progress("tokenising", min(counts["bytes"], total), total)

        def pieces() -> Iterator[Piece]:
            encoded = encode_documents(documents, tokenizer, source.detokenizer, workers=config.workers, read=read)
            try:
                for piece in encoded:
                    counts["documents"] += piece.end
                    counts["tokens"] += len(piece.ids)
                    yield piece
            except TextError as error:
                raise InputError(f"{name}, {split} split: {error}") from error

        def blocks() -> Iterator[Block]:
            for block in pack(pieces(), layout):
                counts["sequences"] += len(block.rows)
                counts["dropped_tokens"] += block.dropped
                yield block
            if not counts["sequences"]:
                raise InputError(
                    f"The {split} split of {name} has {counts['tokens']} tokens, fewer than one "
                    f"context of {length}. Use a shorter length, or more text."
                )
            if progress is not None:
                progress("tokenising", total, total)

        return blocks(), lambda: {**facts, **counts}

    key = digest(
        {
            "code": CODE_VERSION,
            "source": source.identity,
            "tokenizer": tokenizer.fingerprint,
            **_provider(config.tokenizer),
            "layout": [length, config.packing, config.context, tokenizer.bos_id, tokenizer.eos_id],
        }
    )
    entry = load_or_build(cache, key, build)
    description = {
        **source.facts,
        **entry.facts,
        "tokenizer": tokenizer.name,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "packing": config.packing,
        "context": config.context,
        "length": length,
    }
    return PackedSplit(entry, tokenizer, description)
