"""Documents to ids, in several processes when there is enough text for it to pay."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bd3cli.data.detokenizers import Detokenizer, get_detokenizer
from bd3cli.data.packing import IdArray
from bd3cli.data.tokenizers import Tokenizer, load_tokenizer
from bd3cli.errors import InputError, RunError

PIECE = 1 << 20  # characters a tokenizer is given at once
WORTH_PROCESSES = 1 << 26  # bytes of text for which starting processes pays

# Between these characters every pattern of OpenAI's encodings ends one piece and begins another, so a text
# may be cut there without changing its ids.
SAFE_CUT = re.compile(r"(?<=\S)\n(?=\w)|\n(?= \w)")


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


@dataclass(frozen=True)
class Document:
    """Ids of one document, and the bytes of text read since the one before."""

    ids: IdArray
    nbytes: int


def encode_documents(
    documents: Iterable[str], tokenizer: Tokenizer, detokenizer: str, *, nbytes: int, workers: int
) -> Iterator[Document]:
    """Ids of each document, in order.

    Args:
        documents: their texts.
        tokenizer: what encodes them.
        detokenizer: name of what is applied to each first.
        nbytes: about how much text there is.
        workers: processes; 0 takes one a core when there is enough text.
    """
    if workers < 0:
        raise InputError(f"data.workers is {workers}. Use 0 to have the number chosen, or a positive number.")
    if workers == 0:
        workers = _cores() if nbytes > WORTH_PROCESSES else 1
    # Detokenizers look across lines, so a document is cut only where there is none.
    whole = not tokenizer.cuts_safely or detokenizer != "none"
    batches = _batches(documents, whole=whole)
    if workers == 1:
        function = get_detokenizer(detokenizer)
        encoded: Iterable[Encoded] = (encode_batch(batch, tokenizer, function) for batch in batches)
    else:
        encoded = _in_processes(batches, tokenizer, detokenizer, workers)
    return _documents(encoded)


def encode_batch(batch: list[tuple[str, bool]], tokenizer: Tokenizer, detokenizer: Detokenizer | None) -> Encoded:
    """Encode texts, each with whether a document ends with it."""
    texts = [detokenizer(text) if detokenizer else text for text, _ in batch]
    arrays = tokenizer.encode_batch(texts)
    return Encoded(
        ids=np.concatenate(arrays),
        lengths=np.array([len(ids) for ids in arrays], dtype=np.int64),
        ends=[end for _, end in batch],
        nbytes=sum(len(text.encode("utf-8", "replace")) for text in texts),
    )


def cut(text: str, size: int = PIECE) -> Iterator[str]:
    """Pieces of at least `size` characters, the last one aside, that encode to the ids of the whole."""
    begin = 0
    while len(text) - begin > size:
        match = SAFE_CUT.search(text, begin + size)
        if match is None:
            break
        yield text[begin : match.end()]
        begin = match.end()
    yield text[begin:]


def _batches(documents: Iterable[str], *, whole: bool) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    size = 0
    for text in documents:
        pieces = [text] if whole else list(cut(text))
        for number, piece in enumerate(pieces, 1):
            batch.append((piece, number == len(pieces)))
            size += len(piece)
            if size >= PIECE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _documents(encoded: Iterable[Encoded]) -> Iterator[Document]:
    pieces: list[IdArray] = []
    nbytes = 0
    for batch in encoded:
        nbytes += batch.nbytes
        for ids, end in zip(np.split(batch.ids, np.cumsum(batch.lengths)[:-1]), batch.ends, strict=True):
            pieces.append(ids)
            if end:
                yield Document(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), nbytes)
                pieces, nbytes = [], 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_worker: tuple[Tokenizer, Detokenizer | None]


def _start_worker(tokenizer: str, detokenizer: str) -> None:
    global _worker
    _worker = load_tokenizer(tokenizer), get_detokenizer(detokenizer)


def _work(batch: list[tuple[str, bool]]) -> Encoded:
    return encode_batch(batch, *_worker)


def _in_processes(
    batches: Iterator[list[tuple[str, bool]]], tokenizer: Tokenizer, detokenizer: str, workers: int
) -> Iterator[Encoded]:
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
