"""Stop rules, templates, lengths, and what the command line shows of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bd3cli
from bd3cli.data import load_tokenizer
from bd3cli.sampling import StopRule, generate, make_request
from bd3cli.sampling.stopping import SHARE, UPSTREAM_NATS, WINDOW, entropy, entropy_rule
from bd3cli.studies.lengths import Lengths, bins, document_lengths


def test_a_sample_ends_with_its_first_eos_but_not_at_position_0() -> None:
    rule = StopRule(eos_id=9)
    assert rule.find(torch.tensor([9, 1, 2]), 1) is None
    assert rule.find(torch.tensor([9, 1, 9, 2, 9]), 1) == (3, "eos")


EOS_RULES = [
    ("a[MASK:3]b", None),  # given text behind the hole: an EOS in it ends nothing
    ("a[MASK:6]", 2),  # a hole at the end is text like any other
    ("a[MASK:3]b[MASK:5]", 6),
    ("[MASK:4]", 1),
    (None, 2),
]


@pytest.mark.parametrize(("template", "first"), EOS_RULES)
def test_until_eos_never_cuts_what_was_given(trained: Path, template: str | None, first: int | None) -> None:
    """A network that writes EOS everywhere: samples end with the first one behind all that was given."""
    run = bd3cli.load(str(trained))
    with torch.no_grad():
        run.model.projection[1][257] += 1e4
    stop = StopRule(run.tokenizer.eos_id)
    options = {"prompt": "a"} if template is None else {"template": template}
    request = make_request(run.model, run.tokenizer, stop=stop, **options)
    for sampler in ("first-hitting", "confidence", "ancestral"):
        made = generate(run.model, run.tokenizer, replace(request, sampler=sampler), num=2)
        for sample in made.samples:
            expected = request.length if first is None else first + 1
            assert (sample.length, sample.stop) == (expected, "length" if first is None else "eos")
            assert sample.tokens[-1] == (ord("b") if first is None else 257)
            given = [i for i, token in enumerate(request.prompt) if token != 258]
            assert [sample.tokens[i] for i in given] == [request.prompt[i] for i in given]
        assert made.generated == 2 * (expected - len(given)), "what is filled into holes is generated"


def test_a_repetitive_sample_ends_before_the_window_that_shows_it() -> None:
    rule = StopRule(eos_id=999, min_entropy=2.0)
    lively, dull = torch.arange(300) % 50, torch.arange(WINDOW) % 3
    assert rule.find(lively, 1) is None
    assert rule.find(torch.cat((lively, dull)), 1) == (300, "entropy")
    assert rule.find(dull, 1) is None, "the window must be generated text"
    assert rule.find(torch.cat((lively[:20], dull)), 20) == (20, "entropy")
    assert StopRule(999).find(torch.cat((lively, dull)), 1) is None


def test_the_threshold_is_recorded_with_the_run_and_follows_its_text(trained: Path) -> None:
    run = bd3cli.load(str(trained))
    recorded = json.loads((trained / "run.json").read_text())["entropy_stop"]
    split = run.split("train")
    text = split.tokens(np.arange(9))[:, 1:].reshape(-1)[:WINDOW]  # contexts of 32 tokens: nine make a window
    first = entropy(torch.from_numpy(text))
    assert recorded["threshold"] == pytest.approx(SHARE * recorded["median"])
    assert recorded["median"] == pytest.approx(first, rel=0.25)
    assert run.stop_rule().min_entropy == recorded["threshold"]
    assert run.stop_rule(1.5).min_entropy == 1.5
    assert run.stop_rule(0).min_entropy is None

    class Gpt2:
        name = "gpt2"

    assert entropy_rule(split, Gpt2())["threshold"] == UPSTREAM_NATS  # type: ignore[arg-type]


def test_an_older_run_gets_its_threshold_when_it_is_needed(trained: Path) -> None:
    record = json.loads((trained / "run.json").read_text())
    before = record.pop("entropy_stop")
    (trained / "run.json").write_text(json.dumps(record))
    assert bd3cli.load(str(trained)).stop_rule().min_entropy == before["threshold"]
    assert json.loads((trained / "run.json").read_text())["entropy_stop"] == before


def test_a_template_is_filled_in(trained: Path) -> None:
    run = bd3cli.load(str(trained))
    request = make_request(run.model, run.tokenizer, template="The [MASK:5] sat")
    assert request.length == 1 + 4 + 5 + 4
    assert request.prompt == (256, *b"The ", *[258] * 5, *b" sat")
    for sample in generate(run.model, run.tokenizer, request, num=4).samples:
        assert sample.tokens[:5] == [256, *b"The "]
        assert sample.tokens[10:] == [*b" sat"]
        assert 258 not in sample.tokens
        assert sample.nfe == 5 + 2, "the last block has two positions beyond the template, which are cut"
    longer = make_request(run.model, run.tokenizer, template=r"\[MASK:3] [MASK:1]", length=24)
    assert longer.prompt == (256, *b"[MASK:3] ", 258)
    assert all(s.length == 24 for s in generate(run.model, run.tokenizer, longer, num=2).samples)


def test_document_lengths_are_tokens_of_text() -> None:
    from bd3cli.data.spans import Spans

    rows = document_lengths("d", Spans.of(["ab", "", "abcde", "x" * 10]), load_tokenizer("bytes"))
    assert rows.lengths.tolist() == [2, 5, 10]
    summary = rows.summary()
    assert (summary["count"], summary["median"], summary["max"]) == (3, 5, 10)
    assert summary["quantiles"]["0.5"] == 5


def test_every_length_is_in_a_bin() -> None:
    rows = [Lengths("a", np.array([0, 1, 2, 500])), Lengths("b", np.array([3, 40]))]
    edges = bins(rows)
    assert (np.diff(edges) > 0).all()
    assert all(row.histogram(edges).sum() == pytest.approx(1) for row in rows)


def test_length_stats_of_data_and_of_samples(cli, trained: Path, tmp_path: Path) -> None:
    options = ("--run", trained, "--documents", 20, "--num", 6, "--max-length", 40)
    data, samples = cli("length-stats", *options, "--json").json["rows"]
    assert (data["name"], data["count"], data["cap"]) == ("pydocs (train)", 20, None)
    assert samples["count"] == 6
    assert samples["cap"] == 39
    assert samples["max"] <= 39
    assert sum(samples["stops"].values()) == 6
    assert samples["capped"] == samples["stops"].get("length", 0)
    shown = cli("length-stats", *options, "--png", tmp_path / "l.png")
    assert "│" in shown.out
    assert (tmp_path / "l.png").read_bytes().startswith(b"\x89PNG")


def test_sampling_until_eos_says_why_each_ended(cli, trained: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    out = cli("sample", trained, "--until-eos", "--max-length", 60, "--num", 3, "--trace", trace, "--json").json
    assert out["min_entropy"] > 0
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    for sample in out["samples"]:
        assert sample["stop"] == ("eos" if 257 in sample["tokens"] else "length")
        assert sample["length"] <= 60
        own = [line for line in lines if line["seed"] == sample["seed"]]
        assert len(own) == sample["nfe"]
        seen = {p: t for line in own for p, t in zip(line["positions"], line["tokens"], strict=True)}
        assert [seen[i] for i in range(1, sample["length"])] == sample["tokens"][1:]
    for options, message in (
        (("--max-length", 9), "no effect without --until-eos"),
        (("--until-eos", "--length", 9), "bound it by --max-length"),
        (("--trace", tmp_path / "no" / "t"), "cannot be written"),
    ):
        refused = cli("sample", trained, *options)
        assert refused.code == 2
        assert message in refused.err


def test_piped_text_grows_and_equals_the_sample(cli, trained: Path) -> None:
    """Beyond the context, plain text on stdout as it is made."""
    whole = cli("sample", trained, "--length", 100, "--seed", 4, "--json").json["samples"][0]["text"]
    plain = cli("sample", trained, "--length", 100, "--seed", 4)
    assert plain.out == whole + "\n"
    assert "\x1b" not in plain.err


def test_ctrl_c_prints_what_is_finished(trained: Path, tmp_path: Path) -> None:
    options = ["--num", "1000", "--batch-size", "1", "--length", "40"]
    command = [sys.executable, "-m", "bd3cli", "sample", str(trained), *options]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while (tmp_path / "out").read_text().count("--- sample") < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "of 1000 sample(s) finished" in err
    texts = (tmp_path / "out").read_text()
    assert "--- sample 1 of 1000, seed 0 ---" in texts
    finished = int(err.split("interrupted: ")[1].split(" of ")[0])
    assert finished >= 1
    assert texts.count("--- sample") - texts.count("ended by interrupted") == finished
