"""Splits are disjoint, complete, and depend on nothing but the text."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bd3cli.data.documents import Documents, Mapped
from bd3cli.data.spans import Spans
from bd3cli.data.splits import BY_DOCUMENT, BY_GROUP, BY_PIECE, FEW_DOCUMENTS, seeded_subset, split_documents
from bd3cli.data.windows import SEPARATOR, chunks, code_points, groups_sharing, window_hashes
from bd3cli.hashing import random_keys, text_key

TEXTS = st.lists(st.text("ab \n", max_size=30), max_size=120)


@given(TEXTS)
def test_every_document_is_in_one_split(texts: list[str]) -> None:
    parts, policy = split_documents(Spans.of(texts))
    if policy == BY_DOCUMENT:
        assert sorted(t for part in parts.values() for t in part) == sorted(texts)
        sets = [set(part) for part in parts.values()]
        assert not sets[0] & sets[1]
        assert not sets[0] & sets[2]
        assert not sets[1] & sets[2]


@given(st.lists(st.text("ab \n", max_size=60), max_size=FEW_DOCUMENTS - 1))
def test_few_documents_are_cut_into_contiguous_pieces(texts: list[str]) -> None:
    parts, policy = split_documents(Spans.of(texts))
    assert policy == BY_PIECE
    pieces = "".join(t for part in parts.values() for t in part)
    # Blank pieces are left out; nothing else is lost, and the order is kept.
    assert "".join(pieces.split()) == "".join("".join(texts).split())


def test_shares_are_right(corpus: Callable[..., list[str]]) -> None:
    texts = corpus(500)
    parts, policy = split_documents(Spans.of(texts))
    total = sum(len(t.encode()) for t in texts)
    shares = {name: sum(len(t.encode()) for t in part) / total for name, part in parts.items()}
    assert policy == BY_DOCUMENT
    assert shares["train"] == pytest.approx(0.9, abs=0.01)
    assert shares["validation"] == pytest.approx(0.05, abs=0.005)
    assert shares["test"] == pytest.approx(0.05, abs=0.005)


def test_order_of_documents_does_not_matter(corpus: Callable[..., list[str]]) -> None:
    texts = corpus(200)
    forwards, _ = split_documents(Spans.of(texts))
    backwards, _ = split_documents(Spans.of(texts[::-1]))
    assert {n: set(p) for n, p in forwards.items()} == {n: set(p) for n, p in backwards.items()}
    assert list(forwards["test"]) == [t for t in texts if t in set(forwards["test"])]


def test_copies_stay_together(corpus: Callable[..., list[str]]) -> None:
    texts = corpus(60) * 3
    parts, policy = split_documents(Spans.of(texts))
    assert policy == BY_DOCUMENT
    assert all(list(part).count(text) == 3 for part in parts.values() for text in part)


QUOTED = "a sentence that several of the documents quote, word for word"


def quoting(corpus: Callable[..., list[str]]) -> list[str]:
    """Documents of which every tenth quotes the next of them: 0 and 10 share a text, 10 and 20 another."""
    texts = corpus(300)
    for n in range(0, 290, 10):
        texts[n] += f" {QUOTED} {n} "
        texts[n + 10] += f" {QUOTED} {n} "
    return texts


def test_documents_that_share_a_run_stay_together(corpus: Callable[..., list[str]]) -> None:
    texts = quoting(corpus)
    quoted = {text for text in texts if QUOTED in text}
    alone, policy = split_documents(Spans.of(texts))
    assert policy == BY_DOCUMENT
    assert sum(bool(quoted & set(part)) for part in alone.values()) > 1  # 30 of them, dealt out by hash
    parts, policy = split_documents(Spans.of(texts), shared_run=40)
    assert policy == BY_GROUP.format(run=40)
    assert sum(bool(quoted & set(part)) for part in parts.values()) == 1
    assert sorted(t for part in parts.values() for t in part) == sorted(texts)


def test_groups_do_not_depend_on_the_order_of_documents(corpus: Callable[..., list[str]]) -> None:
    texts = quoting(corpus)
    forwards, _ = split_documents(Spans.of(texts), shared_run=40)
    backwards, _ = split_documents(Spans.of(texts[::-1]), shared_run=40)
    assert {n: set(p) for n, p in forwards.items()} == {n: set(p) for n, p in backwards.items()}


@given(st.lists(st.text("ab", max_size=9), max_size=12), st.integers(2, 5))
def test_groups_are_the_connected_documents(texts: list[str], width: int) -> None:
    group = groups_sharing(Spans.of(texts), width)
    runs = [{t[i : i + width] for i in range(len(t) - width + 1)} or {t} for t in texts]
    together = {n: {n} for n in range(len(texts))}
    for _ in texts:  # as often as the longest chain could need
        for a, b in itertools.product(range(len(texts)), repeat=2):
            if runs[a] & runs[b]:
                together[a] = together[b] = together[a] | together[b]
    expected = [[b in together[a] for b in range(len(texts))] for a in range(len(texts))]
    assert [[bool(one == other) for other in group] for one in group] == expected


@given(st.text(max_size=40), st.integers(2, 8))
def test_equal_windows_have_equal_hashes_and_others_have_not(text: str, width: int) -> None:
    windows = [text[i : i + width] for i in range(len(text) - width + 1)]
    hashes = window_hashes(code_points(text), width).tolist()
    assert len(hashes) == len(windows)
    assert len(set(hashes)) == len(set(windows))
    assert len(set(zip(windows, hashes, strict=True))) == len(set(windows))


@given(st.lists(st.text("abc", max_size=30), max_size=8), st.integers(2, 6), st.integers(1, 20))
def test_chunks_hold_every_window_and_no_other(texts: list[str], width: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bd3cli.data.windows.CHUNK", size)
        found = [points.tolist() for points, _ in chunks(Spans.of(texts), width)]
    windows = {tuple(chunk[i : i + width]) for chunk in found for i in range(len(chunk) - width + 1)}
    expected = {text[i : i + width] for text in texts for i in range(len(text) - width + 1)}
    assert {"".join(map(chr, w)) for w in windows if ord(SEPARATOR) not in w} == expected


def test_one_document_that_is_nearly_everything_is_cut_up() -> None:
    parts, policy = split_documents(Spans.of(["x\n" * 50_000] + [f"{n}" for n in range(100)]))
    assert policy == BY_PIECE
    sizes = [sum(map(len, part)) for part in parts.values()]
    assert sizes == pytest.approx([90_000, 5_000, 5_000], rel=0.1)


@given(st.lists(st.text("aé日😀 \n", min_size=1, max_size=30), max_size=6), st.integers(0, 10), st.integers(0, 10))
def test_dividing_loses_no_character(texts: list[str], first: int, second: int) -> None:
    parts = Spans.of(texts).divide([first / 20, second / 20, 1 - first / 20 - second / 20])
    assert len(parts) == 3
    # Cuts are between characters, or decoding would fail; only blanks are left out.
    joined = "".join(text for part in parts for text in part)
    assert "".join(joined.split()) == "".join("".join(texts).split())


def test_dividing_prefers_lines_then_words() -> None:
    cases = {"one\ntwo three four": ["one\n", "two three four"], "one two three": ["one ", "two three"]}
    for text, expected in cases.items():
        assert [list(part) for part in Spans.of([text]).divide([0.5, 0.5])] == [[expected[0]], [expected[1]]]
    assert [list(part) for part in Spans.of(["ééé"]).divide([0.5, 0.5])] == [["é"], ["éé"]]
    assert [list(part) for part in Spans.of(["ab\n", "cd\n"]).divide([0.5, 0.5])] == [["ab\n"], ["cd\n"]]


def test_long_single_text_is_cut_between_lines() -> None:
    text = "".join(f"line {n} of the text\n" for n in range(1000))
    parts, _ = split_documents(Spans.of([text]))
    sizes = [sum(map(len, part)) / len(text) for part in parts.values()]
    assert sizes == pytest.approx([0.9, 0.05, 0.05], abs=0.005)
    assert all(piece.endswith("\n") and piece.startswith("line") for part in parts.values() for piece in part)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_subset_is_seeded_and_nested(small: int, large: int, seed: int) -> None:
    small, large = sorted((small, large))
    documents = Spans.of([str(n) for n in range(50)])
    few = list(seeded_subset(documents, small, seed))
    many = list(seeded_subset(documents, large, seed))
    assert len(few) == min(small, 50)
    assert set(few) <= set(many)
    assert few == sorted(few, key=int)


def test_subset_depends_on_its_seed() -> None:
    documents = Spans.of([str(n) for n in range(1000)])
    chosen = [tuple(seeded_subset(documents, 100, seed)) for seed in range(5)]
    assert len(set(chosen)) == 5


def test_keys_are_the_same_everywhere() -> None:
    # Written down, so that a change of numpy or of this code cannot quietly change everybody's splits.
    assert text_key("a text") == 5830437876521264211
    start = int.from_bytes(hashlib.blake2b(b"7", digest_size=8).digest(), "little")
    mask = 2**64 - 1
    for number, key in enumerate(random_keys(3, 7).tolist(), 1):
        z = (start + number * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        assert key == z ^ z >> 31


def test_lazy_documents_read_what_is_asked_for() -> None:
    read: list[int] = []

    class Counting(Documents):
        nbytes = 0

        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> str:
            read.append(index)
            return str(index)

    upper = Mapped(Counting().take(np.array([3, 5, 7])), lambda text: text + "!")
    assert upper.take(np.array([2]))[0] == "7!"
    assert read == [7]
    assert list(upper) == ["3!", "5!", "7!"]
