"""Hub data sets: their splits and rows, and what happens when the hub cannot be reached."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from bd3cli.data import corpora, hub_libraries, load_split, network, resolve_documents
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig

Served = dict[str, dict[str, list[dict[str, Any]]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Stand in for the hub: serve splits of rows, and record what was asked for."""
    asked: list[dict[str, Any]] = []

    def install(splits: dict[str, list[dict[str, Any]]], files: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        def load_dataset(path: str, **options: Any) -> datasets.DatasetDict:
            asked.append({"path": path, **options})
            return datasets.DatasetDict({n: datasets.Dataset.from_list(rows) for n, rows in splits.items()})

        class Api:
            def list_repo_files(self, *_: Any, **__: Any) -> list[str]:
                return list(files)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        monkeypatch.setattr(hub_libraries, "reachable", lambda url: True)
        return asked

    return install


def rows(texts: list[str], column: str = "text") -> list[dict[str, Any]]:
    return [{column: text, "id": n} for n, text in enumerate(texts)]


def documents(name: str, split: Any, **options: Any) -> list[str]:
    return list(resolve_documents(DataConfig(name=name, **options), split))


def test_splits_of_its_own(serve: Any) -> None:
    asked = serve({"train": rows(["a"]), "dev": rows(["b"]), "test": rows(["c"])})
    assert [documents("org/name", s)[0] for s in ("train", "validation", "test")] == ["a", "b", "c"]
    documents("org/name:config", "train")
    assert asked[0] == {"path": "org/name", "name": None, "revision": None}
    assert asked[-1] == {"path": "org/name", "name": "config", "revision": None}


def test_only_a_train_split_is_shared_out(serve: Any, corpus: Any) -> None:
    serve({"train": rows(corpus(200))})
    parts = [set(documents("org/name", s)) for s in ("train", "validation", "test")]
    assert set.union(*parts) == set(corpus(200))
    assert sum(map(len, parts)) == 200


def test_missing_split(serve: Any) -> None:
    serve({"train": rows(["a"]), "test": rows(["c"])})
    with pytest.raises(InputError, match=r"splits train, test and none for validation.*data\.validation"):
        documents("org/name", "validation")


def test_column(serve: Any) -> None:
    serve({"train": rows(["a"], "body"), "test": rows(["c"], "body")})
    with pytest.raises(InputError, match=r"'org/name' has no column 'text'.*body, id"):
        documents("org/name", "train")
    assert documents("org/name", "train", column="body") == ["a"]


def test_openwebtext_holds_out_its_last_documents(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    serve({"train": rows([str(n) for n in range(100_003)])})
    train, validation, test = (
        resolve_documents(DataConfig(name="openwebtext"), s) for s in ("train", "validation", "test")
    )
    assert list(train) == ["0", "1", "2"]
    assert (len(validation), validation[0], validation[99_999]) == (100_000, "3", "100002")
    assert validation.description["rows"] == "train[-100000:]"
    assert "the same as test" in validation.description["split_policy"]
    assert test[0] == validation[0]


def test_registered_ones_use_their_column_and_detokenizer(serve: Any) -> None:
    asked = serve({s: rows(["paid $ N for it"], "sentence") for s in ("train", "validation", "test")})
    assert documents("ptb", "test") == ["paid $1 for it"]
    assert asked == [{"path": "ptb-text-only/ptb_text_only", "data_dir": None, "revision": corpora.PARQUET}]


def test_contexts_and_record(serve: Any) -> None:
    serve({"train": rows(["some text of a row"] * 9), "test": rows(["c"])})
    split = load_split(DataConfig(name="org/name:config"), "train", 16)
    assert split.documents == 9
    assert split.description["hub"] == "org/name:config"
    assert split.description["revision"]
    first = split.fingerprint
    serve({"train": rows(["other text of a row"] * 9), "test": rows(["c"])})
    assert load_split(DataConfig(name="org/name:config"), "train", 16).fingerprint != first


def test_loading_script_is_read_from_the_hubs_conversion(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve({"train": rows(["a"]), "test": rows(["c"])}, files=("config/train/0000.parquet",))
    served = datasets.load_dataset

    def script(path: str, **options: Any) -> Any:
        if options["revision"] is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found name.py")
        return served(path, **options)

    monkeypatch.setattr(datasets, "load_dataset", script)
    assert documents("org/name:config", "train") == ["a"]
    assert asked == [{"path": "org/name", "data_dir": "config", "revision": corpora.PARQUET}]


def test_partial_conversion_is_refused(serve: Any) -> None:
    serve({"train": rows(["a"])}, files=("plain_text/partial-train/0000.parquet",))
    with pytest.raises(InputError, match="incomplete"):
        documents("lm1b", "train")


def test_error_of_the_hub_is_told_in_one_line(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    serve({})

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among ...")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"Config name is missing.*org/name:config") as caught:
        documents("org/name", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_offline_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    for name in ("org/name", "wikitext2", "lm1b"):
        begin = time.monotonic()
        with pytest.raises(InputError, match=f"'{name}'.*cannot be reached.*'pydocs', a local file"):
            documents(name, "train")
        assert time.monotonic() - begin < 3
    assert datasets.config.HF_HUB_OFFLINE is False
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("offline")
def test_offline_uses_what_was_downloaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out the cache as a download leaves it, and read it without a network."""
    made = tmp_path / "made"
    for split, text in (("train", "for training"), ("test", "for testing")):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    datasets.load_dataset("json", data_files=files, cache_dir=str(made))
    (built,) = (path.parent for path in made.rglob("dataset_info.json"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "org___name" / "default" / "0.0.0" / commit
    cached.parent.mkdir(parents=True)
    built.rename(cached)
    for path in cached.glob("json-*.arrow"):
        path.rename(cached / path.name.replace("json-", "name-"))
    info = json.loads((cached / "dataset_info.json").read_text())
    info |= {"config_name": "default", "dataset_name": "name"}
    (cached / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hub"))
    found = resolve_documents(DataConfig(name="org/name"), "test")
    assert list(found) == ["for testing"]
    assert found.description["revision"] == commit


def test_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.urllib.request, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.reachable(f"http://127.0.0.1:{port}/path")
    assert not network.reachable(f"http://127.0.0.1:{port}/path")
    assert not network.reachable("https://no-such-host.invalid")


def test_hanging_name_resolution_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.urllib.request, "getproxies", dict)
    slow = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        slow.wait(5)
        raise OSError

    monkeypatch.setattr(network.socket, "create_connection", hang)
    begin = time.monotonic()
    assert not network.reachable("https://huggingface.co", seconds=0.1)
    assert time.monotonic() - begin < 1
    slow.set()


def test_a_proxy_is_what_must_be_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def connect(address: tuple[str, int], timeout: float) -> Any:
        asked.append(address)
        raise OSError

    monkeypatch.setattr(network.socket, "create_connection", connect)
    monkeypatch.setattr(network.urllib.request, "getproxies", lambda: {"https": "http://proxy.example:3128"})
    monkeypatch.setattr(network.urllib.request, "proxy_bypass", lambda host: host == "inside")
    assert not network.reachable("https://huggingface.co")
    assert not network.reachable("https://inside")
    assert asked == [("proxy.example", 3128), ("inside", 443)]
