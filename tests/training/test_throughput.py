"""Tokens a second are those of training, however often it is interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bd3cli.recipes.resolve import resolve
from bd3cli.training import loop
from bd3cli.training.loop import train
from bd3cli.training.throughput import Throughput


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_pauses_take_no_time_and_their_neighbours_keep_their_tokens() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    throughput.add(10)
    clock.now += 1
    with throughput.paused():
        clock.now += 50
    throughput.add(30)
    clock.now += 3
    assert throughput.take() == 40 / 4
    with throughput.paused():
        clock.now += 5
    throughput.add(6)
    clock.now += 2
    assert throughput.take() == 6 / 2


@pytest.mark.parametrize(
    ("log", "validate", "checkpoint"), [(10, 9, 7), (10, 10, 10), (10, 3, 1000), (4, 1000, 1), (1, 2, 3), (7, 5, 20)]
)
def test_every_record_has_the_rate_of_the_steps(
    tmp_path: Path, quick, monkeypatch: pytest.MonkeyPatch, log: int, validate: int, checkpoint: int
) -> None:
    """A step takes a second of a clock of ours, a validation a hundred and a checkpoint ten: the rate is a step's."""
    clock = Clock()
    monkeypatch.setattr(loop, "Throughput", lambda: Throughput(clock))

    def slow(name: str, seconds: float) -> None:
        done = getattr(loop, name)

        def wrapped(*arguments, **options):
            clock.now += seconds
            return done(*arguments, **options)

        monkeypatch.setattr(loop, name, wrapped)

    slow("optimizer_step", 1)
    slow("validate", 100)
    slow("save", 10)
    settings = [*quick, "train.steps=20", "train.validate_sequences=4", "train.batch_size=4", "objective.family=ar"]
    cadence = [f"train.log_every={log}", f"train.validate_every={validate}", f"train.checkpoint_every={checkpoint}"]
    train(resolve("tiny", overrides=[*settings, *cadence]), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["tokens_per_second"] for row in rows if "loss" in row]
    assert len(rates) >= 3
    assert rates == [4 * 31] * len(rates)  # sequences, tokens predicted in each
