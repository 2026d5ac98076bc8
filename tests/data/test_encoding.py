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
from bd3cli.data.encoding import cut, encode_documents
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
@given(text=st.text("a. \n\r/1é", max_size=60), size=st.integers(0, 8))
def test_cutting_changes_no_id(encodings: list[tiktoken.Encoding], text: str, size: int) -> None:
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    for each in encodings:
        assert [i for p in pieces for i in each.encode_ordinary(p)] == each.encode_ordinary(text)


def test_long_text_is_cut() -> None:
    pieces = list(cut("word\n" * 1000, 100))
    assert len(pieces) > 40
    assert list(cut("word" * 1000, 100)) == ["word" * 1000]


def collect(texts: list[str], tokenizer: Tokenizer, detokenizer: str = "none", workers: int = 1) -> list[list[int]]:
    found = list(encode_documents(texts, tokenizer, detokenizer, nbytes=0, workers=workers))
    assert sum(d.nbytes for d in found) >= sum(len(d.ids) > 0 for d in found)
    return [d.ids.tolist() for d in found]


def test_documents_come_back_whole_and_in_order(
    monkeypatch: pytest.MonkeyPatch, corpus: Callable[..., list[str]], merges_file: Path
) -> None:
    texts = ["", *corpus(50), "", "one\nlong document " * 100, ""]
    tokenizer = load_tokenizer(str(merges_file))
    expected = [tokenizer.encode(text) for text in texts]
    for piece in (1, 37, 1 << 20):
        monkeypatch.setattr(encoding, "PIECE", piece)
        monkeypatch.setattr(encoding.cut, "__defaults__", (piece,))
        assert collect(texts, tokenizer) == expected


def test_processes_give_the_same(
    monkeypatch: pytest.MonkeyPatch, corpus: Callable[..., list[str]], merges_file: Path
) -> None:
    monkeypatch.setattr(encoding, "PIECE", 200)
    monkeypatch.setattr(encoding.cut, "__defaults__", (200,))
    texts = [*corpus(80), "", "a long\none , with lines\n" * 50]
    tokenizer = load_tokenizer(str(merges_file))
    for detokenizer in ("none", "wikitext"):
        assert collect(texts, tokenizer, detokenizer, 2) == collect(texts, tokenizer, detokenizer, 1)


def test_bytes_read_are_counted() -> None:
    found = list(encode_documents(["aé", "b , c", ""], load_tokenizer("bytes"), "wikitext", nbytes=0, workers=1))
    assert sum(d.nbytes for d in found) == len("aé".encode()) + len("b, c")
    assert np.concatenate([d.ids for d in found]).tolist() == list("aéb, c".encode())


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "encode_batch", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    if encoding.sys.platform != "linux":
        pytest.skip("the patched function does not reach spawned processes")
    with pytest.raises(RunError, match=r"data\.workers"):
        collect(["text"], load_tokenizer("bytes"), workers=2)


def test_negative_workers() -> None:
    with pytest.raises(InputError, match=r"data\.workers is -1"):
        collect(["text"], load_tokenizer("bytes"), workers=-1)
