"""Which split a file belongs to, by its name: every usual spelling, and names that only look like it."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from bd3cli.data.split_names import read_names


def splits(*names: str) -> dict[str, list[str]]:
    """What is read from names that are understood."""
    naming = read_names([PurePath(name) for name in names])
    assert not naming.unclear
    assert not naming.plain
    return {split: [str(path) for path in paths] for split, paths in naming.splits.items()}


# Names of train, validation and test files, without the extensions of their formats.
SPELLINGS = {
    "plain": ("train", "valid", "test"),
    "long": ("training", "validation", "testing"),
    "dev": ("Train", "Dev", "Test"),
    "shards of the hub": ("data/train-00000-of-00003", "data/validation-00000-of-00001", "data/test-00000-of-00001"),
    "shards with hashes": (
        "train-00000-of-00001-a09b74b3ef9c3b56",
        "valid-00000-of-00001-16f7b4bd8b3f6e01",
        "test-00000-of-00001-0123456789abcdef",
    ),
    "kinds of splits": ("train_sft-00000-of-00002", "validation_matched-00000-of-00001", "test_sft-00000-of-00001"),
    "WikiText": ("wiki.train", "wiki.valid", "wiki.test"),
    "Penn Treebank": ("ptb.train", "ptb.valid", "ptb.test"),
    "underscores": ("corpus_train", "corpus_dev", "corpus_test"),
    "directories": ("train/0001", "val/0001", "test/0001"),
    "directories below": ("plain/train/a", "plain/dev/a", "plain/test/a"),
    "directories with more to say": ("train_files/1", "valid_files/1", "test_files/1"),
    "numbers": ("train1", "valid1", "test2"),
    "camel case": ("wikiTrain", "wikiVal", "wikiTest"),
    "sets": ("trainset", "devset", "testset"),
    "sets apart": ("training_set", "validation_set", "test_set"),
    "versions": ("corpus_train_v2", "corpus_dev_v2", "corpus_test_v2"),
    "languages": ("europarl.train.en", "europarl.dev.en", "europarl.test.en"),
    "development": ("lambada_train_plain", "lambada_development_plain", "lambada_test_plain"),
    "two kinds of names": ("books_train", "news_valid", "more_test"),
    "blanks": ("my train data", "my valid data", "my test data"),
    "a parent called after one": ("train/test_of_time", "dev/x", "test/x"),
    "eval for validation": ("train", "eval", "test"),
    "eval for test": ("train", "dev", "eval"),
}


@pytest.mark.parametrize("names", SPELLINGS.values(), ids=SPELLINGS)
def test_spelling(names: tuple[str, str, str]) -> None:
    train, validation, test = names
    assert splits(*names) == {"train": [train], "validation": [validation], "test": [test]}


def test_shards_of_one_split_keep_their_order() -> None:
    shards = [f"train-0000{n}-of-00003" for n in range(3)]
    assert splits(*shards, "test-00000-of-00001") == {"train": shards, "test": ["test-00000-of-00001"]}


ORDINARY = [
    ("contest", "latest", "a"),
    ("protest", "attestation", "strained", "developer", "invalid", "evaluate"),
    ("devices", "value", "interval"),
    ("software_development", "chapter 1"),
    ("how to test a hypothesis", "on being idle"),
    ("part1", "part2", "part3"),
    ("data-00000-of-00002", "data-00001-of-00002"),
    ("trainee", "retesting", "devotion"),
]


@pytest.mark.parametrize("names", ORDINARY, ids=" ".join)
def test_ordinary_names_are_one_collection(names: tuple[str, ...]) -> None:
    assert splits(*names) == {}


def test_a_word_in_passing_is_mentioned() -> None:
    naming = read_names([PurePath("how to test a hypothesis"), PurePath("idle")])
    assert naming.asides == (PurePath("how to test a hypothesis"),)


# Names, and which of them are not understood or say nothing while others do.
REFUSED: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "a test file beside others": (("test", "a", "b"), {"a", "b"}),
    "train beside others": (("train", "valid", "notes"), {"notes"}),
    "a manual": (("training_manual", "intro"), {"intro"}),
    "two words": (("test_driven_dev", "train"), {"test_driven_dev"}),
    "both in one": (("trainval", "test"), {"trainval"}),
    "held out": (("train", "held-out"), {"held-out"}),
    "a fourth split": (("train", "test", "unsupervised"), {"unsupervised"}),
    "glued": (("mytrainfile", "mytestfile"), {"mytrainfile", "mytestfile"}),
    "a sibling without the word": (("wikitest", "wiki"), {"wikitest", "wiki"}),
    "a sibling inside": (("en.test.raw", "en.raw"), {"en.raw"}),
    "eval beside both": (("train", "dev", "test", "eval"), {"eval"}),
    "another split's name in a directory": (("dev/train", "dev/x", "train/x"), {"dev/train"}),
    "directories and files": (("train/a", "valid/a", "extra"), {"extra"}),
}


@pytest.mark.parametrize(("names", "expected"), REFUSED.values(), ids=REFUSED)
def test_names_that_do_not_say_clearly(names: tuple[str, ...], expected: set[str]) -> None:
    naming = read_names([PurePath(name) for name in names])
    assert {str(path) for path in (*naming.unclear, *naming.plain)} == expected
    assert naming.splits or naming.unclear
