"""Encoding in pieces, batches and processes gives the ids of the whole text."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from bd3cli.data import encoding
from bd3cli.data.encoding import encode_documents
from bd3cli.data.spans import Spans
from bd3cli.data.tiktoken_files import CL100K_PATTERN
from bd3cli.data.tokenizers import Tokenizer, load_tokenizer
from bd3cli.errors import InputError, RunError

O200K_LIKE = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WHITESPACE = [b"\n\n", b"  ", b" \n", b"\n ", b" \n ", b"\n\n\n", b".\n", b"\na", b" a", b"\n a", b"/\n"]
RANKS = {token: n for n, token in enumerate([*(bytes([b]) for b in range(256)), *WHITESPACE])}


@pytest.fixture(scope="module")
def encodings() -> list[tiktoken.Encoding]:
    return [
        tiktoken.Encoding("e", pat_str=pattern, mergeable_ranks=RANKS, special_tokens={})
        for pattern in (r50k_pat_str, CL100K_PATTERN, O200K_LIKE)
    ]


@settings(max_examples=300)
@given(text=st.text("a. \n\r/1é_\x1c\u00a0", max_size=60), size=st.integers(0, 8))
def test_pieces_have_the_ids_of_the_whole(encodings: list[tiktoken.Encoding], text: str, size: int) -> None:
    pieces = [piece for piece, _ in Spans.of([text]).pieces(size)]
    assert "".join(pieces) == text
    for each in encodings:
        assert [i for p in pieces for i in each.encode_ordinary(p)] == each.encode_ordinary(text)


def test_long_text_comes_in_pieces() -> None:
    lines = Spans.of(["word\n" * 1000, "short"])
    pieces = list(lines.pieces(100))
    assert len(pieces) > 40
    assert [end for _, end in pieces].count(True) == 2
    assert list(lines.pieces(1 << 20)) == [("word\n" * 1000, True), ("short", True)]
    assert list(Spans.of(["word" * 1000]).pieces(100)) == [("word" * 1000, True)]


def collect(texts: list[str], tokenizer: Tokenizer, detokenizer: str = "none", workers: int = 1) -> list[list[int]]:
    documents: list[list[int]] = [[]]
    for ids, end in encode_documents(Spans.of(texts), tokenizer, detokenizer, workers=workers):
        documents[-1] += ids.tolist()
        if end:
            documents.append([])
    assert documents.pop() == []
    return documents


def test_documents_come_back_whole_and_in_order(
    monkeypatch: pytest.MonkeyPatch, corpus: Callable[..., list[str]], merges_file: Path
) -> None:
    texts = ["", *corpus(50), "", "one\nlong document " * 100, ""]
    tokenizer = load_tokenizer(str(merges_file))
    expected = [tokenizer.encode(text) for text in texts if text]
    for piece in (1, 37, 1 << 20):
        monkeypatch.setattr(encoding, "PIECE", piece)
        assert collect(texts, tokenizer) == expected


def test_processes_give_the_same(
    monkeypatch: pytest.MonkeyPatch, corpus: Callable[..., list[str]], merges_file: Path
) -> None:
    monkeypatch.setattr(encoding, "PIECE", 200)
    texts = [*corpus(80), "", "a long\none , with lines\n" * 50]
    tokenizer = load_tokenizer(str(merges_file))
    for detokenizer in ("none", "wikitext"):
        assert collect(texts, tokenizer, detokenizer, 2) == collect(texts, tokenizer, detokenizer, 1)


def test_bytes_read_are_counted() -> None:
    read: list[int] = []
    pieces = list(
        encode_documents(Spans.of(["aé", "b , c", ""]), load_tokenizer("bytes"), "wikitext", read=read.append)
    )
    assert sum(read) == len("aé".encode()) + len("b, c")
    assert np.concatenate([ids for ids, _ in pieces]).tolist() == list("aéb, c".encode())


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "encode_batch", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    if encoding.sys.platform != "linux":
        pytest.skip("the patched function does not reach spawned processes")
    with pytest.raises(RunError, match=r"data\.workers"):
        collect(["text"], load_tokenizer("bytes"), workers=2)


def test_negative_workers() -> None:
    with pytest.raises(InputError, match=r"data\.workers is -1"):
        collect(["text"], load_tokenizer("bytes"), workers=-1)
