"""Documents to ids, in several processes when there is enough text for it to pay."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bd3cli.data.detokenizers import Detokenizer, get_detokenizer
from bd3cli.data.documents import Documents
from bd3cli.data.packing import IdArray, Piece
from bd3cli.data.tokenizers.base import Tokenizer
from bd3cli.data.tokenizers.load import load_tokenizer
from bd3cli.errors import InputError, RunError
from bd3cli.faults import blaming_plugins

Batch: TypeAlias = list[tuple[str, bool]]  # texts, each with whether a document ends with it
PIECE = 1 << 20  # characters a tokenizer is given at once
WORTH_PROCESSES = 1 << 26  # bytes of text for which starting processes pays


@dataclass(frozen=True)
class Encoded:
    """Ids of consecutive texts, end to end: cheaper to hand between processes than an array each.

    Attributes:
        ids: ``[sum of lengths]``.
        lengths: ``[texts]`` ids of each.
        ends: ``[texts]`` whether a document ends with it.
        nbytes: UTF-8 bytes of them all.
    """

    ids: IdArray
    lengths: npt.NDArray[np.int64]
    ends: list[bool]
    nbytes: int


def encode_documents(
    documents: Documents,
    tokenizer: Tokenizer,
    detokenizer: str = "none",
    *,
    workers: int = 1,
    read: Callable[[int], None] = lambda nbytes: None,
) -> Iterator[Piece]:
    """Ids of the documents in order; empty ones are left out.

    Args:
        documents: their texts.
        tokenizer: what encodes them.
        detokenizer: name of what is applied to each first.
        workers: processes; 0 takes one a core when there is enough text for it to pay.
        read: called with the UTF-8 bytes of text encoded since the last call.
    """
    if workers < 0:
        raise InputError(f"data.workers is {workers}. Use 0 to have the number chosen, or a positive number.")
    if workers == 0:
        # Bytes are only copied, and the tokenizers of `transformers` have threads of their own.
        alone = (tokenizer.name == "bytes" and detokenizer == "none") or tokenizer.name.startswith("hf:")
        workers = 1 if alone or documents.nbytes < WORTH_PROCESSES else available_cores()
    # A detokenizer looks across lines, so only without one may a document come in pieces.
    in_pieces = tokenizer.cuts_safely and detokenizer == "none"
    batches = _batches(documents.pieces(PIECE) if in_pieces else ((text, True) for text in documents))
    if workers == 1:
        function = get_detokenizer(detokenizer)
        encoded: Iterable[Encoded] = (encode_batch(batch, tokenizer, function) for batch in batches)
    else:
        encoded = _in_processes(batches, tokenizer, detokenizer, workers)
    return _pieces(encoded, read)


def encode_batch(batch: Batch, tokenizer: Tokenizer, detokenizer: Detokenizer | None) -> Encoded:
    """Encode a batch, after its detokenizer."""
    texts = [detokenizer(text) if detokenizer else text for text, _ in batch]
    arrays = tokenizer.encode_batch(texts)
    return Encoded(
        ids=np.concatenate(arrays),
        lengths=np.array([len(ids) for ids in arrays], dtype=np.int64),
        ends=[end for _, end in batch],
        nbytes=sum(len(text.encode("utf-8", "replace")) for text in texts),
    )


def _batches(texts: Iterable[tuple[str, bool]]) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    for text, end in texts:
        batch.append((text, end))
        size += len(text)
        if size >= PIECE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pieces(encoded: Iterable[Encoded], read: Callable[[int], None]) -> Iterator[Piece]:
    begun = False
    for batch in encoded:
        read(batch.nbytes)
        for ids, end in zip(np.split(batch.ids, np.cumsum(batch.lengths)[:-1]), batch.ends, strict=True):
            begun = begun or len(ids) > 0
            if begun:
                yield Piece(ids, end)
            begun = begun and not end


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_worker: tuple[Tokenizer, Detokenizer | None]


def _start_worker(tokenizer: str, detokenizer: str) -> None:
    global _worker
    _worker = load_tokenizer(tokenizer), get_detokenizer(detokenizer)


def _work(batch: Batch) -> Encoded:
    with blaming_plugins():  # a traceback does not outlive its process
        return encode_batch(batch, *_worker)


def _in_processes(batches: Iterator[Batch], tokenizer: Tokenizer, detokenizer: str, workers: int) -> Iterator[Encoded]:
    """Encode batches in order, with a few in flight for each process so that memory stays bounded."""
    # A spawned process imports the user's main script again, which then must be written for it. A forked one
    # does not, and needs nothing but the tokenizer that is already in memory.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(tokenizer.name, detokenizer)
    )
    waiting: deque[Future[Encoded]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(_work, batch))
            if len(waiting) >= 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RunError(
            "A tokenisation process ended without a result; it may have run out of memory. Set data.workers to 1."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
