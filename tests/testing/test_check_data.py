"""The laws of data sets and tokenizers fail for ones that break them, each for its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from bd3cli.data import Corpus, VocabularyTokenizer, load_tokenizer
from bd3cli.plugins import load_plugins
from bd3cli.plugins.registry import Entry
from bd3cli.testing import assert_laws, check_dataset, check_tokenizer


@pytest.fixture
def register():
    """register(kind, cls): the one called ``mine``."""
    load_plugins.cache_clear()
    load_tokenizer.cache_clear()
    yield lambda kind, cls: load_plugins().registry[kind].add(Entry("mine", cls, "bd3cli-mine", "1"))
    load_plugins.cache_clear()
    load_tokenizer.cache_clear()


def corpus(read, description: str = "Texts.", splits=("train", "validation", "test")):
    return dataclass(frozen=True)(type("Mine", (Corpus,), {"read": read, "splits": splits, "__doc__": description}))


def own(self, split):
    return [f"{split} has {i}" for i in range(20)]


@pytest.mark.parametrize(
    ("made", "law"),
    [
        (corpus(own, description=""), "described"),
        (corpus(lambda self, split: own(self, split) if split == "train" else [" "]), "texts"),
        (corpus(lambda self, split: [*own(self, split), str(np.random.default_rng().random())]), "pure"),
        (corpus(lambda self, split: own(self, "train")), "apart"),
    ],
)
def test_a_data_set_fails_the_law_it_breaks(register, made, law: str) -> None:
    register("dataset", made)
    assert [found.law for found in check_dataset("mine") if not found.ok] == [law]


@pytest.mark.parametrize("splits", [("train", "validation", "test"), ("test",), ("train",)])
def test_a_sound_data_set_passes(register, splits) -> None:
    register("dataset", corpus(own, splits=splits))
    assert_laws(check_dataset("mine"))


@dataclass(frozen=True)
class Bytes(VocabularyTokenizer):
    def pieces(self):
        return [bytes([byte]) for byte in range(256)]

    def ids(self, text):
        return list(text.encode())


@dataclass(frozen=True)
class Growing(Bytes):
    """Each time it is read its text grows."""

    def ids(self, text):
        return list((text + "!").encode())


@dataclass(frozen=True)
class Miscounting(Bytes):
    def __post_init__(self):
        super().__post_init__()
        self.token_bytes[ord("e")] = 2


@dataclass(frozen=True)
class SpecialText(Bytes):
    def encode_array(self, text):
        return np.array([*super().encode_array(text), self.bos_id] if "<" in text else super().encode_array(text))


@dataclass(frozen=True)
class Forgetful(Bytes):
    count: ClassVar[int] = 0

    def __post_init__(self):
        super().__post_init__()
        Forgetful.count += 1
        object.__setattr__(self, "fingerprint", str(Forgetful.count))


@dataclass(frozen=True)
class Uneven(Bytes):
    def encode_batch(self, texts):
        return [self.encode_array(text)[::-1] for text in texts]


@pytest.mark.parametrize(
    ("cls", "law"),
    [(Growing, "settled"), (Miscounting, "counted"), (SpecialText, "special"), (Forgetful, "stable"),
     (Uneven, "batched")],
)  # fmt: skip
def test_a_tokenizer_fails_the_law_it_breaks(register, cls, law: str) -> None:
    register("tokenizer", cls)
    assert law in [found.law for found in check_tokenizer("mine") if not found.ok]


@pytest.mark.parametrize("spec", ["mine", "bytes"])
def test_a_sound_tokenizer_passes(register, spec: str) -> None:
    register("tokenizer", Bytes)
    assert_laws(check_tokenizer(spec))
