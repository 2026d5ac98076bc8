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

from bd3cli.data import encoding, load_split, runs_of_space
from bd3cli.data.encoding import encode_documents
from bd3cli.data.runs_of_space import long_runs
from bd3cli.data.spans import Spans
from bd3cli.data.tokenizers.base import Tokenizer, native
from bd3cli.data.tokenizers.files import CL100K_PATTERN
from bd3cli.data.tokenizers.load import load_tokenizer
from bd3cli.data.tokenizers.tiktoken import TiktokenTokenizer
from bd3cli.errors import InputError, RunError
from bd3cli.recipes.settings import DataConfig

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


# Every way in which OpenAI's encodings have been split, in tiktoken 0.9 to 0.14.
PATTERNS = {
    "r50k": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "r50k, old": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "cl100k": (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"""
        r"""|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
    "cl100k, old": CL100K_PATTERN,
    "o200k": "|".join(
        [
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}""",
            r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
            r"""\s*[\r\n]+""",
            r"""\s+(?!\S)""",
            r"""\s+""",
        ]
    ),
}
# Merges of white space, so that ids show where a piece of the pattern ends.
SPACES = [b"  ", b"   ", b"    ", b"  \n", b"\n  ", b"\n\n", b"\t\t", b" \t", b" a", b"  a", b"-\n", b" 1"]
SPACE_RANKS = {token: n for n, token in enumerate([*(bytes([b]) for b in range(256)), *SPACES])}


def encoding_of(pattern: str, name: str = "e") -> tiktoken.Encoding:
    return tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=SPACE_RANKS, special_tokens={"<|endoftext|>": len(SPACE_RANKS)}
    )


@settings(max_examples=300, deadline=None)
@given(text=st.text("    \t\n\r\xa0\u3000\x1ca1-/é'", max_size=50), long=st.integers(3, 9))
@pytest.mark.parametrize("name", PATTERNS)
def test_long_runs_of_white_space_have_the_ids_of_the_whole(name: str, text: str, long: int) -> None:
    each = encoding_of(PATTERNS[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_of_space, "LONG", long)
        parts = list(long_runs(text, PATTERNS[name]))
    assert "".join(part for part, _ in parts) == text
    found = [i for part, one in parts for i in (each._encode_single_piece(part) if one else each.encode_ordinary(part))]
    assert found == each.encode_ordinary(text)


def test_long_runs_are_found_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_of_space, "LONG", 8)
    for before in range(20):
        for size in (8, 9, 17, 40):
            text = "x" * before + " " * size + "y z"
            assert (" " * (size - 1), True) in list(long_runs(text, PATTERNS["r50k"]))


@pytest.mark.parametrize("name", PATTERNS)
def test_runs_on_which_tiktoken_panics_are_encoded(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bd3cli.data.tokenizers.tiktoken.is_openai", lambda _: True)
    end = len(SPACE_RANKS)
    tokenizer = TiktokenTokenizer("e", encoding_of(PATTERNS[name]), bos_id=end, eos_id=end)
    for run in (" " * 1_050_000, " \n" + "\t" * 1_050_000):
        text = f"one{run}two"
        assert tokenizer.decode(tokenizer.encode_array(text)) == text
    assert capfd.readouterr().err == ""


class Panicking(TiktokenTokenizer):
    """A tokenizer whose encoding panics as Rust's do: with a `BaseException` of a module that cannot be imported."""

    def _encode(self, text: str) -> list[int]:
        raise type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})("called `unwrap()`\n on None")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_panic_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    end = len(SPACE_RANKS)
    tokenizer = Panicking("third-party", encoding_of(PATTERNS["r50k"]), bos_id=end, eos_id=end)
    for module in ("loading", "encoding"):
        monkeypatch.setattr(f"bd3cli.data.{module}.load_tokenizer", lambda _: tokenizer)
    if encoding.sys.platform != "linux" and workers == 2:
        pytest.skip("the patched function does not reach spawned processes")
    (tmp_path / "a.txt").write_text("some words")
    config = DataConfig(train=str(tmp_path / "a.txt"), tokenizer="third-party", workers=workers)
    told = r"a\.txt, train split: Tokenizer 'third-party' broke down \(called `unwrap\(\)` on None\).*'some words'"
    with pytest.raises(InputError, match=told) as caught:
        load_split(config, "train", 8)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="broke down"):
        tokenizer.encode("a prompt")


def test_an_interruption_is_no_panic() -> None:
    with pytest.raises(KeyboardInterrupt), native("gpt2", "text"):
        raise KeyboardInterrupt


def test_ids_that_are_none_are_told_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2 x 3")
    with pytest.raises(InputError, match=r"a\.txt, train split: Tokenizer 'ids:9' reads token ids.*'x'"):
        load_split(DataConfig(train=str(tmp_path / "a.txt"), tokenizer="ids:9"), "train", 8)
