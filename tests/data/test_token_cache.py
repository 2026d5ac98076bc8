"""The cache gives back what was put there, or makes it again; it never gives anything else."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bd3cli.data import PackedSplit, load_split, loading
from bd3cli.data import cache as cache_module
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig

TEXT = "".join(f"line {n} of a text that is long enough\n" for n in range(400))


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    (tmp_path / "a.txt").write_text(TEXT)
    return DataConfig(train=str(tmp_path / "a.txt"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at each tokenisation."""
    calls: list[int] = []
    encode = loading.encode_documents

    def counting(*args: Any, **options: Any) -> Iterable[Any]:
        calls.append(1)
        return encode(*args, **options)

    monkeypatch.setattr(loading, "encode_documents", counting)
    return calls


def entry_of(folder: Path) -> Path:
    (meta,) = (folder / "tokens").glob("*/meta.json")
    return meta.parent


def rows(split: PackedSplit) -> list[list[int]]:
    found: list[list[int]] = split.tokens(range(len(split))).tolist()
    return found


def test_second_time_is_read_back(config: DataConfig, built: list[int], cache: Path) -> None:
    first, second = load_split(config, "train", 16), load_split(config, "train", 16)
    assert built == [1]
    assert rows(first) == rows(second)
    assert first.fingerprint == second.fingerprint
    assert first.description == second.description
    assert first.documents == second.documents == 1


def test_fingerprint_does_not_depend_on_where_the_cache_or_the_file_is(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text(TEXT)
    here = load_split(config, "train", 16)
    there = load_split(replace(config, train=str(tmp_path / "b.txt")), "train", 16, cache_dir=tmp_path / "other")
    assert here.fingerprint == there.fingerprint
    (tmp_path / "b.txt").write_text(TEXT.replace("line 7 ", "line 8 "))
    other = load_split(replace(config, train=str(tmp_path / "b.txt")), "train", 16)
    assert other.fingerprint != here.fingerprint


def test_everything_that_changes_tokens_changes_the_key(
    config: DataConfig, built: list[int], merges_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.txt").write_text(TEXT + "more\n")
    changes: list[dict[str, Any]] = [
        {},
        {"document": "line"},
        {"document": "line", "max_documents": 50},
        {"document": "line", "max_documents": 60},
        {"document": "line", "max_documents": 60, "subset_seed": 1},
        {"packing": "pad"},
        {"context": "bos-eos"},
        {"tokenizer": str(merges_file)},
        {"detokenize": "wikitext"},
        {"train": str(tmp_path / "c.txt")},
        {"train": None, "name": config.train},
    ]
    for count, change in enumerate(changes, 1):
        load_split(replace(config, **change), "train", 16)
        assert len(built) == count, change
    load_split(config, "train", 17)
    load_split(replace(config, train=None, name=config.train), "test", 16)
    assert len(built) == len(changes) + 2
    for change in changes:
        load_split(replace(config, **change), "train", 16)
    load_split(replace(config, workers=2), "train", 16)
    assert len(built) == len(changes) + 2


def test_a_tokenizer_of_the_same_size_is_another(
    config: DataConfig, built: list[int], ranks_file: Callable[[list[bytes]], Path], tmp_path: Path
) -> None:
    ranks_file([b"li"]).rename(tmp_path / "one.tiktoken")
    ranks_file([b"ne"]).rename(tmp_path / "two.tiktoken")
    one, two = (
        load_split(replace(config, tokenizer=str(tmp_path / f"{n}.tiktoken")), "train", 16) for n in ("one", "two")
    )
    assert built == [1, 1]
    assert one.fingerprint != two.fingerprint


def test_another_column_is_another_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n" + "first words,other words\n" * 20)
    config = DataConfig(train=str(tmp_path / "a.csv"), column="a")
    first, second = (load_split(replace(config, column=column), "train", 16) for column in "ab")
    assert first.fingerprint != second.fingerprint


def damage_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("rows.npy", damage_byte),
        ("rows.npy", truncate),
        ("rows.npy", lambda path: path.write_bytes(b"")),
        ("rows.npy", Path.unlink),
        ("lengths.npy", damage_byte),
        ("lengths.npy", Path.unlink),
        ("meta.json", truncate),
        ("meta.json", lambda path: path.write_text("[]")),
        ("meta.json", Path.unlink),
    ],
)
def test_damaged_entry_is_made_again(
    config: DataConfig, built: list[int], cache: Path, name: str, harm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(config, document="line", packing="pad")
    good = rows(load_split(config, "train", 64))
    harm(entry_of(cache) / name)
    again = load_split(config, "train", 64)
    assert rows(again) == good
    assert built == [1, 1]
    load_split(config, "train", 64)
    assert built == [1, 1]


def test_large_entry_is_verified_when_it_was_touched(
    config: DataConfig, built: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bd3cli.data.cache.ALWAYS_VERIFIED", 0)
    load_split(config, "train", 16)
    hashed: list[int] = []
    content_hash = cache_module.content_hash
    monkeypatch.setattr("bd3cli.data.cache.content_hash", lambda *a: (hashed.append(1), content_hash(*a))[1])
    load_split(config, "train", 16)
    assert hashed == []
    damage_byte(entry_of(cache) / "rows.npy")
    load_split(config, "train", 16)
    assert hashed
    assert built == [1, 1]


def test_failure_leaves_nothing_behind(config: DataConfig, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        yield from ()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loading, "encode_documents", stop)
        with pytest.raises(KeyboardInterrupt):
            load_split(config, "train", 16)
    assert [p.name for p in (cache / "tokens").iterdir() if p.suffix != ".lock"] == []
    assert len(load_split(config, "train", 16)) > 0


def test_leftovers_of_killed_processes_are_removed(config: DataConfig, cache: Path) -> None:
    old, young = cache / "tokens" / ".partial-old", cache / "tokens" / ".partial-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "rows.npy").write_bytes(b"x")
    before = time.time() - 2 * 24 * 3600
    os.utime(old / "rows.npy", (before, before))
    os.utime(old, (before, before))
    load_split(config, "train", 16)
    assert young.exists()
    assert not old.exists()


def test_full_disk_is_a_clear_error(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bd3cli.data.cache.os.fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*BD3CLI_CACHE"):
        load_split(config, "train", 16)


def test_unwritable_cache_falls_back_to_a_temporary_one(
    config: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "bd3cli.data"):
        split = load_split(config, "train", 16, cache_dir=tmp_path / "file" / "cache")
    assert len(split) > 0
    (record,) = caplog.records  # and none that calls the entry damaged
    assert "BD3CLI_CACHE" in record.getMessage()
    assert str(tmp_path / "file") in record.getMessage()


def test_an_entry_in_a_directory_that_is_now_read_only_is_used(
    config: DataConfig, cache: Path, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_split(config, "train", 16)
    monkeypatch.setattr("bd3cli.data.cache.writable_directory", lambda wanted: pytest.fail("asked to write"))
    load_split(config, "train", 16)
    assert built == [1]


PROGRAM = """
import json, sys, time
from bd3cli.recipes.settings import DataConfig
from bd3cli.data import load_split, loading
encode = loading.encode_documents
def slow(*args, **options):
    print("building", flush=True)
    time.sleep(0.5)
    return encode(*args, **options)
loading.encode_documents = slow
split = load_split(DataConfig(train=sys.argv[1]), "train", 16)
print(json.dumps(split.tokens([0, len(split) - 1]).tolist()))
"""


def test_two_processes_at_once(config: DataConfig, cache: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(config.train)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    results = [json.loads(lines[-1]) for lines in outputs]
    assert results[0] == results[1] == results[2]
    assert sum(lines[0] == "building" for lines in outputs) == 1
    assert len(list((cache / "tokens").glob(".partial-*"))) == 0


def test_rows_are_mapped_and_small(config: DataConfig, cache: Path) -> None:
    split = load_split(config, "train", 16)
    stored = np.load(entry_of(cache) / "rows.npy", mmap_mode="r")
    assert stored.dtype == np.uint16
    assert stored.shape == (len(split), 16)
    assert isinstance(split._rows, np.memmap)
    assert split.tokens(np.array([], dtype=np.int64)).shape == (0, 16)
    with pytest.raises(IndexError):
        split.tokens([len(split)])


def test_progress_ends_at_its_total(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bd3cli.data.encoding.PIECE", 1000)
    seen: list[tuple[str, int, int]] = []
    load_split(replace(config, document="line"), "train", 16, progress=lambda *a: seen.append(a))
    done = [d for _, d, _ in seen]
    assert len(seen) > 5
    assert done == sorted(done)
    assert {total for _, _, total in seen} == {seen[0][2]}
    assert done[-1] == seen[-1][2]


def test_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BD3CLI_CACHE", str(tmp_path))
    assert cache_module.default_directory() == tmp_path
    monkeypatch.delenv("BD3CLI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache_module.default_directory() == tmp_path / "xdg" / "bd3cli"
