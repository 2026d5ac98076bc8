"""Losses of a seeded 20-step run, committed: a change of the arithmetic anywhere in training shows here."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from bd3cli.recipes.resolve import resolve
from bd3cli.training.loop import train

GOLDEN = Path(__file__).parent / "golden_losses.json"
SETTINGS = (
    "model.hidden_size=32", "model.blocks=2", "model.heads=2", "model.cond_dim=8", "model.length=32",
    "train.steps=20", "train.batch_size=8", "train.precision=fp32", "train.log_every=1", "train.validate_every=20",
    "train.validate_sequences=8", "train.warmup=2", "train.learning_rate=0.003",
)  # fmt: skip
FAMILIES = {
    "ar": ("objective.family=ar",),
    "mdlm": ("objective.family=mdlm", "objective.masking=bernoulli"),
    "sedd": ("objective.family=sedd", "objective.masking=bernoulli"),
    "sedd-count": ("objective.family=sedd", "objective.masking=count"),
    "bd3lm-count": ("objective.block_size=4",),
    "bd3lm-clipped": ("objective.block_size=8", "objective.clip=0.3,0.8"),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same words on every machine; the embedded corpus varies with the Python version."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 7))) for _ in range(50)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n\n".join(" ".join(rng.choices(words, k=12)) + "." for _ in range(300)))
    return path


def losses(folder: Path, text: Path, *settings: str) -> list[float]:
    overrides = [*SETTINGS, *settings, f"data.name={text}", "data.document=paragraph"]
    train(resolve("tiny", overrides=overrides, environment={}), folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", FAMILIES)
def test_losses_are_the_committed_ones(tmp_path: Path, text: Path, name: str, backend: str) -> None:
    found = losses(tmp_path / "run", text, *FAMILIES[name], f"train.attention={backend}")
    golden = json.loads(GOLDEN.read_text())[name]
    assert len(golden) == 20
    assert golden[-1] < golden[0]
    assert found == pytest.approx(golden, rel=1e-4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_repeat_has_the_same_losses_bit_for_bit(tmp_path: Path, text: Path, backend: str) -> None:
    settings = (*FAMILIES["bd3lm-count"], "model.dropout=0.1", f"train.attention={backend}")
    assert losses(tmp_path / "one", text, *settings) == losses(tmp_path / "two", text, *settings)
