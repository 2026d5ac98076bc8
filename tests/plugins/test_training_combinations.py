"""Every schedule, clip, weight and masking that ships trains for 200 steps, and evaluation sees none of them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from bd3cli.plugins import load_plugins
from bd3cli.recipes.resolve import resolve
from bd3cli.training.loop import train

pytestmark = pytest.mark.slow

PLUGINS = {"bd3cli-gaussian", "bd3cli-reweighting", "bd3cli-frequency"}
SCHEDULES = (
    *("loglinear", "square", "sqrt", "log", "cosine", "gaussian", "gaussian:mu=0.3,sigma=0.05"),
    *("bimodal-gaussian", "bimodal-gaussian:mu1=0.1,mu2_start=0.4", "bimodal-gaussian:form=piecewise"),
)
WEIGHTS = ("none", "edm", "iddpm", "sigmoid:k=0", "fm", "simple")
WEIGHED = ("loglinear", "gaussian", "cosine")
COMBINATIONS = [
    *((schedule, clip, "none", "bernoulli") for schedule in SCHEDULES for clip in (None, "0.3,0.8", "0.5,1")),
    *((schedule, None, weight, "bernoulli") for schedule in WEIGHED for weight in WEIGHTS[1:]),
    *(("loglinear", None, weight, masking) for weight in WEIGHTS for masking in ("count", "frequency:strength=0.25")),
    ("full", None, "none", "bernoulli"),
]


@pytest.fixture(autouse=True)
def _installed() -> None:
    missing = PLUGINS - {record.distribution for record in load_plugins().records}
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")


def run(folder: Path, quick: tuple[str, ...], schedule: str, clip: str | None, weight: str, masking: str) -> Path:
    overrides = [
        *quick,
        "train.steps=200",
        "train.validate_every=200",
        f"objective.schedule={schedule}",
        f"objective.weight={weight}",
        f"objective.masking={masking}",
        f"objective.block_size={1 if schedule == 'full' else 4}",
        *([f"objective.clip={clip}"] if clip else []),
    ]
    train(resolve("tiny", overrides=overrides), folder)
    return folder


@pytest.mark.parametrize(("schedule", "clip", "weight", "masking"), COMBINATIONS)
def test_trains(
    tmp_path: Path, quick: tuple[str, ...], schedule: str, clip: str | None, weight: str, masking: str
) -> None:
    folder = run(tmp_path / "run", quick, schedule, clip, weight, masking)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    record = json.loads((folder / "run.json").read_text())
    perplexity = record["validation"]["ppl"]
    print(f"| {schedule} | {clip or '-'} | {weight} | {masking} | {losses[-1]:.3f} | {perplexity:.1f} |")
    assert len(losses) >= 40
    assert all(math.isfinite(loss) for loss in losses)
    assert math.isfinite(perplexity)
    assert perplexity < 200  # 256 byte values: it has learnt something, whatever it was trained on
    expected = {"gaussian": "bd3cli-gaussian", "bimodal-gaussian": "bd3cli-gaussian"}
    assert record["uses"]["schedule"]["distribution"] == expected.get(schedule.split(":")[0], "bd3cli")
    assert record["uses"]["weight"]["distribution"] == ("bd3cli" if weight == "none" else "bd3cli-reweighting")
    assert all(used["version"] not in ("", "unknown") for used in record["uses"].values())


def test_evaluation_does_not_see_the_objective(tmp_path: Path, quick: tuple[str, ...], cli: Any) -> None:
    """One checkpoint under another recorded schedule, clip and weight has one perplexity, to the last digit."""
    one = run(tmp_path / "one", quick, "loglinear", None, "none", "bernoulli")
    other = tmp_path / "other"
    shutil.copytree(one, other)
    text = (other / "recipe.toml").read_text()
    for old, new in (
        ('schedule = "loglinear"', 'schedule = "gaussian:mu=0.7"'),
        ('weight = "none"', 'weight = "edm"'),
        ("[objective]", "[objective]\nclip = [0.3, 0.8]"),
    ):
        assert old in text
        text = text.replace(old, new)
    (other / "recipe.toml").write_text(text)
    documents = [cli("eval", folder, "--sequences", 64, "--json").json for folder in (one, other)]
    assert documents[0]["ppl"] == documents[1]["ppl"]
    assert documents[0]["ci95"] == documents[1]["ci95"]
