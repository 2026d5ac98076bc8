"""Fixtures of the data tests."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bd3cli.data.cache import writable_directory
from bd3cli.data.tokenizers.load import load_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, which everything here uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BD3CLI_CACHE", str(folder))
    writable_directory.cache_clear()
    load_tokenizer.cache_clear()
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, whatever the machine has."""
    for module in ("hub_libraries", "tokenizers.files"):
        monkeypatch.setattr(f"bd3cli.data.{module}.reachable", lambda url: False)


@pytest.fixture
def ranks_file(tmp_path: Path) -> Callable[[list[bytes]], Path]:
    """Write a .tiktoken file of the 256 bytes and these tokens, ranked in order."""

    def write(tokens: list[bytes]) -> Path:
        ranked = [bytes([byte]) for byte in range(256)] + tokens
        path = tmp_path / "small.tiktoken"
        path.write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(ranked)))
        return path

    return write


@pytest.fixture
def merges_file(ranks_file: Callable[[list[bytes]], Path]) -> Path:
    """A .tiktoken file of bytes and a few merges of them: " the" has the id 258."""
    return ranks_file([b"th", b"the", b" the", b"an", b"and", b" and", b"in", b"ing", b"\n\n", b"  ", b"\n ", b"er"])


@pytest.fixture
def corpus() -> Callable[..., list[str]]:
    """Documents of random words, a given number of them, the same at every call."""

    def make(count: int, seed: int = 0) -> list[str]:
        words = ["the", "and", "in", "thing", "sand", "über", "water", "日本", "a", "\n", "go"]
        source = random.Random(seed)
        return [f"{n} " + " ".join(source.choices(words, k=source.randint(5, 60))) for n in range(count)]

    return make
