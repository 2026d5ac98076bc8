"""A reproduction of seconds, and one who listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bd3cli.reproduce.scales import SCALES, Scale


class Log:
    """A watch that keeps what it was told."""

    def __init__(self) -> None:
        self.total, self.units, self.lines = 0.0, 0.0, []  # type: ignore[var-annotated]

    def begin(self, total: float) -> None:
        self.total = total

    def doing(self, text: str) -> None: ...

    def advance(self, units: float) -> None:
        self.units += units

    def done(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def new_log() -> Callable[[], Log]:
    return Log


@pytest.fixture(scope="session")
def instant() -> Scale:
    smoke = SCALES["smoke"]
    small = {"model.hidden_size": 16, "model.heads": 2, "model.blocks": 1, "train.batch_size": 4}
    return replace(
        smoke, settings={**smoke.settings, **small}, lengths={"lm1b": 32, "openwebtext": 32}, steps=4, sequences=8,
        variance_batches=2, seeds=(0, 1),
    )  # fmt: skip
