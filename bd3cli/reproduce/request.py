"""The request for a reproduction, and the interface of what watches its progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bd3cli.reproduce.scales import Scale
from bd3cli.reproduce.tables import Table


@dataclass(frozen=True)
class Request:
    """What to reproduce.

    Attributes:
        out: directory of the work and the reports.
        data: local copies of registered data sets by name.
        seeds: number of seeds, None for the scale's own.
        jobs: worker processes; with 1 everything happens in the calling one.
        command: for the report.
    """

    tables: tuple[Table, ...]
    scale: Scale
    out: Path
    data: Mapping[str, str] = field(default_factory=dict)
    seeds: int | None = None
    jobs: int = 1
    plots: bool = True
    command: str = ""

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        return self.scale.seeds if self.seeds is None else tuple(range(self.seeds))


class Watch(Protocol):
    """Whoever follows a reproduction. Units are estimated costs, in training steps of the smallest row."""

    def begin(self, total: float) -> None: ...

    def doing(self, text: str) -> None: ...

    def advance(self, units: float) -> None: ...

    def done(self, text: str) -> None: ...


class Interrupted(Exception):
    """A signal asked to stop; trainings under way have saved a checkpoint."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
