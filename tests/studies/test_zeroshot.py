"""Zero-shot tables: what is measured, what is said when it cannot be, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bd3cli
from bd3cli.data import hub
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig
from bd3cli.studies.zero_shot import SUITE, Target, targets, zeroshot, zeroshot_config

SENTENCES = [f"The committee said on day {i} that nothing , so far , had changed ." for i in range(60)]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub: every data set without a local copy is missing."""

    def refuse(source: object, name: str) -> None:
        raise InputError(f"Data set {name!r} cannot be reached. Use a local file.")

    monkeypatch.setattr(hub, "load_hub", refuse)


@pytest.fixture
def copies(tmp_path: Path) -> dict[str, Path]:
    """Local copies in the layouts these data sets are handed round in."""
    (tmp_path / "test.txt").write_text(" \n = Title = \n \n" + " \n".join(SENTENCES) + " \n")
    (tmp_path / "1b_benchmark.test.tokens").write_text("\n".join(SENTENCES) + "\n")
    (tmp_path / "lambada_test.jsonl").write_text("".join(json.dumps({"text": s}) + "\n" for s in SENTENCES))
    (tmp_path / "test.csv").write_text("".join(f'"{i % 4 + 1}","Title {i}","{s}"\n' for i, s in enumerate(SENTENCES)))
    names = {"wikitext2": "test.txt", "lm1b": "1b_benchmark.test.tokens", "lambada": "lambada_test.jsonl",
             "ag_news": "test.csv"}  # fmt: skip
    return {name: tmp_path / file for name, file in names.items()}


def test_a_table_over_local_copies_with_the_rest_reported_missing(
    cli, trained: Path, trained_ar: Path, copies, offline, tmp_path: Path
) -> None:
    given = [f for name, path in copies.items() for f in ("--data", f"{name}={path}")]
    outcome = cli("zeroshot", trained, trained_ar, *given, "--sequences", 8, "--out", tmp_path / "rows.jsonl", "--json")
    assert outcome.code == 1
    document = outcome.json
    rows = document["rows"]
    assert [(r["run"], r["dataset"]) for r in rows] == [(str(r), d) for r in (trained, trained_ar) for d in SUITE]
    assert {r["dataset"] for r in rows if r["status"] == "measured"} == set(copies)
    for row in rows:
        if row["status"] == "measured":
            assert row["ci95"][0] < row["ppl"] < row["ci95"][1]
            assert row["exact"] == (row["family"] == "ar")
            assert row["data"]["files"][0]["path"] == str(copies[row["dataset"]])
        else:
            assert row["ppl"] is None
            assert "cannot be reached" in row["reason"]
    # both runs were measured on the same tokens
    prints = [
        {r["dataset"]: r.get("fingerprint") for r in rows if r["run"] == str(run)} for run in (trained, trained_ar)
    ]
    assert prints[0] == prints[1]
    assert [m["dataset"] for m in document["missing"]] == [d for d in SUITE if d not in copies]
    assert document["policy"]["split"].startswith("validation")
    kept = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert kept == rows


def test_nothing_missing_exits_0_and_states_its_policy(cli, trained: Path, copies, offline) -> None:
    outcome = cli("zeroshot", trained, "--datasets", "lm1b", "--data", f"lm1b={copies['lm1b']}", "--sequences", 8)
    assert outcome.code == 0, outcome.err
    assert "count (upper bound)" in outcome.out
    for word in ("split: validation", "detokenizers: lm1b lm1b", "tokenizer: bytes", "BOS first"):
        assert word in outcome.out
    assert "no data" not in outcome.out


def test_markdown(cli, trained: Path, copies, offline) -> None:
    outcome = cli("zeroshot", trained, "--datasets", "ptb", "--data", f"mine={copies['wikitext2']}", "--sequences", 8,
                  "--markdown")  # fmt: skip
    assert outcome.code == 1
    header, rule, row = outcome.out.splitlines()[:3]
    assert header == "| run | estimator | ptb | mine |"
    assert rule == "|---|---|---|---|"
    assert row.split(" | ")[2] == "no data"
    assert "- ptb: Data set 'ptb' cannot be reached" in outcome.out


def test_a_registered_copy_is_read_as_the_literature_reads_it(trained: Path, copies) -> None:
    """Detokenized and by sentence when it goes by its name; as it is when it does not."""
    run = bd3cli.load(str(trained))
    known, plain = zeroshot(
        [run], [Target("lm1b", str(copies["lm1b"])), Target("mine", str(copies["lm1b"]))], sequences=4
    )
    assert (known.data["detokenizer"], known.data["document"]) == ("lm1b", "line")
    assert (plain.data["detokenizer"], plain.data["document"]) == ("none", "file")
    assert known.data["documents"] == len(SENTENCES)
    assert known.data["bytes"] < plain.data["bytes"]


def test_what_stays_of_the_run_and_what_does_not() -> None:
    mine = DataConfig(
        name="corpus", tokenizer="gpt2", train="a.txt", validation="b.txt", test="c.txt", column="body",
        document="line", packing="pad", context="bos-eos", max_documents=5, detokenize="none",
    )  # fmt: skip
    config = zeroshot_config(mine, Target("ptb", "ptb.txt"), "validation")
    assert (config.tokenizer, config.packing, config.context) == ("gpt2", "pad", "bos-eos")
    assert (config.name, config.validation, config.train, config.test) == ("ptb", "ptb.txt", None, None)
    assert (config.column, config.document, config.detokenize, config.max_documents) == (None, "auto", "auto", None)


def test_targets(copies) -> None:
    assert [t.name for t in targets()] == list(SUITE)
    assert targets(["ptb", "org/name"]) == [Target("ptb"), Target("org/name")]
    lm1b = str(copies["lm1b"])
    assert targets(["ptb"], {"lm1b": lm1b}) == [Target("ptb"), Target("lm1b", lm1b)]
    assert targets([lm1b]) == [Target(lm1b, lm1b)]
    with pytest.raises(InputError, match=r"no data set 'lm1'\. Did you mean 'lm1b'"):
        targets(["lm1"])
    with pytest.raises(InputError, match=r"no file or directory nowhere\.txt to read lm1b from"):
        targets(None, {"lm1b": "nowhere.txt"})


def test_mistakes_are_found_before_anything_is_measured(cli, trained: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["--data", "lm1b"], "--data 'lm1b' is not NAME=PATH"),
        (["--data", "lm1b=nowhere"], "no file or directory nowhere"),
        (["--datasets", "lm1"], "Did you mean 'lm1b'"),
        (["--split", "tset"], "no split 'tset'"),
        (["--datasets", "pydocs", "--out", tmp_path / "no" / "rows.jsonl"], "cannot be written"),
    ):
        outcome = cli("zeroshot", trained, *arguments)
        assert outcome.code == 2, outcome
        assert message in outcome.err
        assert outcome.out == ""


def test_text_too_short_for_two_contexts_is_missing_not_fatal(cli, trained: Path, tmp_path: Path, copies) -> None:
    (tmp_path / "short.txt").write_text("One context of bytes, no more.")
    outcome = cli("zeroshot", trained, "--datasets", "lm1b", "--data", f"short={tmp_path / 'short.txt'}",
                  "--data", f"lm1b={copies['lm1b']}", "--sequences", 4, "--json")  # fmt: skip
    assert outcome.code == 1
    measured, short = outcome.json["rows"]
    assert measured["ppl"] > 1
    assert "fewer than" in short["reason"]


def test_the_layouts_of_the_shared_copies(cli, trained: Path, shared_data: Path, offline) -> None:
    files = {"wikitext2": "wikitext-2/test.txt", "lm1b": "lm1b/1b_benchmark.test.tokens",
             "lambada": "lambada/lambada_test.jsonl", "ag_news": "ag_news/test.csv"}  # fmt: skip
    given = [f for name, file in files.items() for f in ("--data", f"{name}={shared_data / file}")]
    outcome = cli("zeroshot", trained, "--datasets", ",".join(files), *given, "--sequences", 4, "--json")
    assert outcome.code == 0
    documents = {r["dataset"]: r["data"]["documents"] for r in outcome.json["rows"]}
    assert (documents["lambada"], documents["ag_news"]) == (5153, 7600)
