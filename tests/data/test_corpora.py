"""Registered data sets: what is embedded, local copies of the others, and what is told of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bd3cli.data import list_datasets, load_split, resolve_documents
from bd3cli.data.detokenizers import get_detokenizer
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig


def test_pydocs_is_split_disjointly_and_wholly() -> None:
    from pydoc_data.topics import topics

    parts = {s: resolve_documents(DataConfig(), s) for s in ("train", "validation", "test")}
    texts = {name: set(part) for name, part in parts.items()}
    assert set.union(*texts.values()) == set(topics.values())
    assert sum(map(len, texts.values())) == len(set(topics.values()))
    total = sum(map(len, topics.values()))
    for name in ("validation", "test"):
        assert sum(map(len, texts[name])) / total == pytest.approx(0.05, abs=0.015)
    assert parts["train"].description["source"] == f"Python {sys.version.split()[0]}"
    assert parts["train"].description["split_policy"]


def share_standing_in(train: list[str], texts: list[str], run: int) -> float:
    """Share of the characters of `texts` in runs that stand in `train`: every run at every offset, as strings."""
    known = {text[i : i + run] for text in train for i in range(len(text) - run + 1)}
    repeated = 0
    for text in texts:
        end = 0
        for i in range(len(text) - run + 1):
            if text[i : i + run] in known:
                repeated += i + run - max(i, end)
                end = i + run
    return repeated / sum(map(len, texts))


def test_held_out_text_of_pydocs_does_not_stand_in_train() -> None:
    # Topics include one another: divided one by one, 41% of validation and 33% of test stood in train.
    train, validation, test = (list(resolve_documents(DataConfig(), s)) for s in ("train", "validation", "test"))
    assert share_standing_in(train, validation, 100) == 0
    assert share_standing_in(train, test, 100) == 0
    part = next(text for text in train if len(text) > 1000)
    mixed = ["x" * 300 + part[:300], part[:50]]  # what the check itself is worth
    assert share_standing_in(train, mixed, 200) == 300 / 650


def test_pydocs_tokens_cached_under_another_rule_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("bd3cli.data.corpora.PYDOCS_SHARED_RUN", None)  # topics one by one, as in earlier versions
        one_by_one = load_split(DataConfig(), "validation", 64)
    grouped = load_split(DataConfig(), "validation", 64)
    assert grouped.fingerprint != one_by_one.fingerprint
    assert "share a run of 100 characters" in grouped.description["split_policy"]
    assert "share a run" not in one_by_one.description["split_policy"]


def test_pydocs_in_contexts() -> None:
    train, validation = (load_split(DataConfig(), s, 128) for s in ("train", "validation"))
    assert len(train) > 2500
    assert len(validation) > 100
    assert train.fingerprint != validation.fingerprint
    rows = {row.tobytes() for row in train.tokens(range(len(train)))}
    assert not any(row.tobytes() in rows for row in validation.tokens(range(len(validation))))


def test_pydocs_needs_neither_torch_nor_datasets(cache: Path) -> None:
    program = (
        "import sys; from bd3cli.recipes.settings import DataConfig\n"
        "from bd3cli.data import load_split, list_datasets\n"
        "list_datasets(); load_split(DataConfig(), 'validation', 64)\n"
        "print([m for m in ('torch', 'datasets', 'pandas', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_data_set_is_described() -> None:
    infos = list_datasets()
    assert infos[0].name == "pydocs"
    names = {info.name for info in infos}
    paper = {"lm1b", "openwebtext", "wikitext2", "wikitext103", "ptb", "lambada", "ag_news", "pubmed", "arxiv"}
    assert names == {"pydocs"} | paper
    for info in infos:
        assert info.description
        assert info.splits
        assert info.source
        assert info.document
        get_detokenizer(info.detokenizer)
        assert info.name == "pydocs" or info.hub is not None


def local(tmp_path: Path, name: str, content: str) -> str:
    path = tmp_path / name
    path.write_text(content)
    return str(path)


def described(config: DataConfig, split: Any = "test") -> tuple[list[str], dict[str, Any]]:
    documents = resolve_documents(config, split)
    return list(documents), dict(documents.description)


def test_local_copy_of_lm1b_is_detokenized_lines(tmp_path: Path) -> None:
    path = local(tmp_path, "news.tokens", "It 's , she said .\n\nNo !\n")
    texts, facts = described(DataConfig(name="lm1b", test=path))
    assert texts == ["It's, she said.", "No!"]
    assert (facts["dataset"], facts["document"], facts["detokenizer"]) == ("lm1b", "line", "lm1b")
    # The paper validates on the test split, so one file serves both.
    assert described(DataConfig(name="lm1b", test=path), "validation")[0] == texts
    assert described(DataConfig(name="lm1b", test=path, detokenize="none"))[0][1] == "No !"
    with pytest.raises(InputError, match="must not overlap"):
        load_split(DataConfig(name="lm1b", train=path, test=path), "train", 8)


def test_local_copy_of_ag_news_without_header(tmp_path: Path) -> None:
    path = local(tmp_path, "test.csv", '"3","Fears","They say ""no""."\n"4","Race","A team"\n')
    assert described(DataConfig(name="ag_news", test=path))[0] == ['Fears They say "no".', "Race A team"]


def test_local_copy_of_ag_news_with_header(tmp_path: Path) -> None:
    path = local(tmp_path, "test.csv", "label,title,description\n3,Fears,They say\n")
    assert described(DataConfig(name="ag_news", test=path))[0] == ["Fears They say"]
    path = local(tmp_path, "hub.csv", "text,label\nFears They say,3\n")
    assert described(DataConfig(name="ag_news", test=path))[0] == ["Fears They say"]


def test_local_copy_of_ptb_has_the_column_of_the_hub(tmp_path: Path) -> None:
    path = local(tmp_path, "test.jsonl", json.dumps({"sentence": "paid $ N for it"}) + "\n")
    assert described(DataConfig(name="ptb", test=path))[0] == ["paid $1 for it"]


def test_split_that_a_data_set_has_not() -> None:
    with pytest.raises(InputError, match=r"'lambada' has no train split, only validation, test.*data\.train"):
        load_split(DataConfig(name="lambada"), "train", 8)


def test_unknown_name() -> None:
    with pytest.raises(InputError, match=r"'wikitext'\. Did you mean 'wikitext2'\?.*pydocs.*org/name"):
        load_split(DataConfig(name="wikitext"), "train", 8)


def test_real_local_copies(shared_data: Path) -> None:
    copies = {
        "lm1b": "lm1b/1b_benchmark.test.tokens",
        "ag_news": "ag_news/test.csv",
        "lambada": "lambada/lambada_test.jsonl",
        "wikitext2": "wikitext-2/test.txt",
    }
    counts = {}
    for name, path in copies.items():
        if not (shared_data / path).is_file():
            pytest.skip(f"no {path}")
        split = load_split(DataConfig(name=name, test=str(shared_data / path)), "test", 128)
        counts[name] = split.documents
    assert counts == {"lm1b": 12105, "ag_news": 7600, "lambada": 5153, "wikitext2": 2891}


def test_real_directory_of_splits(shared_data: Path) -> None:
    folder = shared_data / "wikitext-2"
    if not folder.is_dir():
        pytest.skip("no wikitext-2")
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        packed = load_split(DataConfig(name=str(folder)), split, 128)  # type: ignore[arg-type]
        assert packed.description["bytes"] == (folder / f"{name}.txt").stat().st_size
        assert [Path(f["path"]).name for f in packed.description["files"]] == [f"{name}.txt"]
