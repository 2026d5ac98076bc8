"""The equal-compute comparison of maskings: its plan, its arithmetic, and that it goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bd3cli.bench.masking_report import interval, report, steps_to
from bd3cli.bench.maskings import COMPARISON, Comparison, claim
from bd3cli.diffusion.scheme import Scheme, parse_scheme, parse_schemes
from bd3cli.errors import InputError
from bd3cli.recipes.resolve import resolve
from bd3cli.rng import STREAM_VERSION

SMALL = (
    "--length", 32, "--steps", 4, "--batch-size", 4, "--test-sequences", 8, "--test-draws", 1,
    "--set", "model.hidden_size=32", "--set", "model.blocks=1", "--set", "model.heads=2", "--set", "model.cond_dim=8",
    "--set", "train.validate_every=2", "--set", "train.validate_sequences=8",
)  # fmt: skip


def test_schemes_are_read_as_written() -> None:
    assert parse_schemes("loglinear; cosine:eps=0.01@0.3,0.8;masking:adaptive:floor=0.2", 4) == [
        Scheme("loglinear"),
        Scheme("cosine:eps=0.01@0.3,0.8", schedule="cosine:eps=0.01", clip=(0.3, 0.8)),
        Scheme("masking:adaptive:floor=0.2", masking="adaptive:floor=0.2"),
    ]
    assert parse_scheme("loglinear@paper", 16).clip == (0.3, 0.8)
    assert parse_scheme("loglinear@paper", 4).clip == (0.45, 0.95)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("  ; ", "names no way"),
        ("loglinear;loglinear", "there twice"),
        ("loglinear@0.3", "must be two numbers, as in loglinear@0.3,0.8"),
        ("loglinear@0.8,0.3", "is not an interval"),
        ("loglinear@paper", "no clip for block size 2, only for 4, 8, 16, 128"),
    ],
)
def test_malformed_schemes_are_refused(text: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        parse_schemes(text, 2)


def test_the_first_step_that_is_as_good_is_interpolated() -> None:
    curve = (np.array([10.0, 20, 30]), np.array([1.0, 2, 3]), np.array([5.0, 4, 4.5]))
    assert steps_to(curve, 4.25) == pytest.approx(17.5)
    assert steps_to(curve, 5.5) == 10
    assert steps_to(curve, 3.9) is None


def test_intervals_are_students_over_seeds() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found is not None
    assert found["mean"] == 2
    assert found["ci95"] == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5])  # t(0.975, 2)
    assert interval([1.0]) == {"mean": 1.0, "ci95": None, "effective_n": 1, "values": [1.0]}
    assert interval([]) is None


def test_a_comparison_trains_reports_and_goes_on(cli, tmp_path: Path) -> None:
    out = tmp_path / "cmp"
    arms = ("--arms", "loglinear;masking:adaptive", "--block-sizes", "4")
    first = cli("bench", "maskings", out, *arms, "--seeds", 1, *SMALL, "--json").json
    assert (first["runs"], first["of"], first["baseline"]) == (2, 2, "loglinear")
    linear, adaptive = first["rows"]
    assert linear["test_minus_baseline"]["mean"] == 0
    assert linear["equal_masked_minus_baseline"]["mean"] == 0
    assert linear["steps_to_baseline"] == [4]
    assert adaptive["learned"]["0"]["n"] == 4
    # counts mask more than half of the tokens, linear times half of them
    assert adaptive["masked_tokens"] > linear["masked_tokens"]
    test = json.loads((out / "block-4" / "loglinear" / "seed-0" / "test.json").read_text())
    assert linear["test"]["values"] == [test["bits_per_byte"]]
    assert first["rows"][0]["test_ppl"]["values"] == [test["ppl"]]

    # a run that was killed half way, and one more seed: what is finished stays as it is
    lost = out / "block-4" / "masking-adaptive" / "seed-0"
    shutil.rmtree(lost)
    kept = (out / "block-4" / "loglinear" / "seed-0" / "run.json").stat().st_mtime_ns
    again = cli("bench", "maskings", out, *arms, "--seeds", 2, *SMALL)
    assert "4 of 4 runs done" in again.out
    assert (out / "report.md").read_text().count("\n| 4 | ") == 2
    assert (out / "block-4" / "loglinear" / "seed-0" / "run.json").stat().st_mtime_ns == kept
    assert report(out)["rows"][1]["validation"]["values"][0] == adaptive["validation"]["values"][0]
    assert cli("bench", "maskings", out, "--report").out == again.out

    other = cli("bench", "maskings", out, *arms, *SMALL, "--set", "train.ema=0.5")
    assert other.code == 2
    assert "train.ema (0.999 -> 0.5)" in other.err


def test_arms_that_cannot_be_trained_are_refused_before_anything_runs(cli, tmp_path: Path) -> None:
    found = cli("bench", "maskings", tmp_path / "x", "--arms", "loglinear;full", *SMALL)
    assert found.code == 2
    assert "defined for block size 1 only" in found.err
    assert not (tmp_path / "x").exists()
    assert cli("bench", "maskings", tmp_path / "x", "--report").code == 2
    assert cli("bench", "maskings", tmp_path / "x", "--block-sizes", "4;16").code == 2


def test_runs_of_other_random_streams_are_not_added(tmp_path: Path) -> None:
    """They would share neither masks nor order with those they are paired with."""
    base, comparison = resolve("tiny", overrides=[], environment={}), Comparison("loglinear", (4,), 1, 8, 1)
    claim(tmp_path / "out", base, comparison)
    claim(tmp_path / "out", base, comparison)
    path = tmp_path / "out" / "comparison.json"
    document = json.loads(path.read_text())
    assert document.pop("stream_version") == STREAM_VERSION
    path.write_text(json.dumps(document))  # as one of version 1 was written
    with pytest.raises(InputError, match=r"have version 1; those of version 2 .* Use another OUT"):
        claim(tmp_path / "out", base, comparison)


def test_a_comparison_from_before_a_setting_existed_goes_on(tmp_path: Path) -> None:
    """A key that its record lacks had its default then."""
    comparison, base = Comparison("loglinear;masking:count", (4,), 1, 8, 1), resolve("tiny")
    claim(tmp_path, base, comparison)
    document = json.loads((tmp_path / COMPARISON).read_text())
    del document["recipe"]["train.check_laws"]
    (tmp_path / COMPARISON).write_text(json.dumps(document))
    claim(tmp_path, base, comparison)
    (tmp_path / COMPARISON).write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"train\.check_laws \(True -> False\)"):
        claim(tmp_path, resolve("tiny", overrides=["train.check_laws=false"]), comparison)
