"""How much held-out text stands in train: against a definition written out character by character."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bd3cli.data import overlap_of_splits
from bd3cli.data.documents import Documents, Mapped
from bd3cli.data.overlap import RUN, measure_overlap
from bd3cli.data.spans import Spans
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig

Corpus = Callable[..., list[str]]
TEXTS = st.lists(st.text("ab\U0010fffe", max_size=12), max_size=6)


def repeated(train: list[str], text: str, run: int) -> int:
    """The definition: characters in a run that stands in a document of `train`, or in a short whole document."""
    if len(text) < run:
        return len(text) * (text in train)
    inside = [any(text[i : i + run] in other for other in train) for i in range(len(text) - run + 1)]
    return sum(any(inside[max(0, i - run + 1) : i + 1]) for i in range(len(text)))


@given(TEXTS, TEXTS, TEXTS, st.integers(2, 6), st.integers(1, 9))
def test_shares_are_those_of_the_definition(
    train: list[str], validation: list[str], test: list[str], run: int, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bd3cli.data.windows.CHUNK", chunk)
        found = measure_overlap(Spans.of(train), {"validation": Spans.of(validation), "test": Spans.of(test)}, run=run)
    for overlap, texts in ((found["validation"], validation), (found["test"], test)):
        assert overlap.repeated_characters == sum(repeated(train, text, run) for text in texts)
        assert overlap.characters == sum(map(len, texts))
        assert (overlap.documents, overlap.of_documents) == (len(texts), len(texts))
        assert overlap.share == (overlap.repeated_characters / overlap.characters if overlap.characters else 0)


def letters(count: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("abcdefghij é日\n", k=count))


def test_the_run_counts_from_200_characters_on() -> None:
    source, other = letters(5000, 1), letters(5000, 2)
    for length, share in ((RUN - 1, 0.0), (RUN, 200.0), (RUN + 1, 201.0), (1000, 1000.0)):
        text = other[:700] + "<" + source[1234 : 1234 + length] + ">" + other[900:1500]
        found = measure_overlap(Spans.of([source]), {"test": Spans.of([text])})["test"]
        assert found.share == share / len(text)


def test_a_passage_counts_once_however_often_it_is_quoted() -> None:
    passage = letters(300, 3)
    train = [letters(100, n) + passage for n in range(4)]
    found = measure_overlap(Spans.of(train), {"test": Spans.of([passage + "!" + passage, letters(601, 9)])})["test"]
    assert found.repeated_characters == 600
    assert found.characters == 601 + 601


def test_short_documents_count_when_they_are_documents_of_train() -> None:
    train = ["a short line", "another one, " + letters(400, 4)]
    test = ["a short line", "another one, ", "short", "a short line "]  # the others only stand inside one
    found = measure_overlap(Spans.of(train), {"test": Spans.of(test)})["test"]
    assert found.repeated_characters == len("a short line")


def test_a_larger_split_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bd3cli.data.overlap.EXAMINED", 30_000)
    train = [letters(300, n) for n in range(500)]
    test = [text if n % 4 else letters(300, 10_000 + n) for n, text in enumerate(train)]
    found = measure_overlap(Spans.of(train), {"test": Spans.of(test)})["test"]
    assert found.of_documents == 500
    assert found.documents < 110
    assert found.characters <= 30_000
    assert found.share == pytest.approx(0.75, abs=0.15)  # 3 standard deviations of some 90 documents of equal size
    again = measure_overlap(Spans.of(train), {"test": Spans.of(test)})["test"]
    assert again == found
    one = measure_overlap(Spans.of(train), {"test": Spans.of(["".join(train)])})["test"]
    assert (one.characters, one.repeated_characters) == (30_000, 30_000)


def test_documents_are_compared_as_they_are_trained_on() -> None:
    spaced, plain = " ".join(letters(300, 5)), letters(300, 5)
    documents: Documents = Mapped(Spans.of([spaced]), lambda text: text[::2])
    assert measure_overlap(Spans.of([plain]), {"test": documents})["test"].share == 1.0


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_overlap_of_a_configuration_is_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [letters(400, n) for n in range(40)]
    config = DataConfig(
        train=write(tmp_path / "a.jsonl", texts[:30]),
        validation=write(tmp_path / "b.jsonl", texts[28:32]),
        test=write(tmp_path / "c.jsonl", texts[30:]),
    )
    found = overlap_of_splits(config)
    assert {split: overlap.share for split, overlap in found.items()} == {"validation": 0.5, "test": 0.0}

    def fail(*args: Any, **options: Any) -> None:
        pytest.fail("measured again")

    with monkeypatch.context() as patched:
        patched.setattr("bd3cli.data.overlap.measure_overlap", fail)
        assert overlap_of_splits(config) == found
    (kept,) = (cache / "overlap").iterdir()
    kept.write_text("{")
    assert overlap_of_splits(config) == found
    write(tmp_path / "a.jsonl", texts)
    assert overlap_of_splits(config)["test"].share == 1.0
    with pytest.raises(InputError, match=r"names a file but data\.test does not"):
        overlap_of_splits(DataConfig(train=config.train, validation=config.validation))
