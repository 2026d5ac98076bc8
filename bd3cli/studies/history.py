"""Recorded runs: find them, read their metrics, list their differences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from bd3cli.errors import InputError
from bd3cli.evaluation.likelihood import LikelihoodSummary
from bd3cli.exchange.inspection import chain
from bd3cli.recipes.families import NAMES, get_family
from bd3cli.recipes.resolve import known_keys
from bd3cli.runs.directory import RECORD, RunDirectory
from bd3cli.runs.records import RunRecord, StepRow, ValidationRow
from bd3cli.studies.curves import Curve, Panel

IGNORED = ("name", "description")  # of no consequence for what was trained


class BestValidation(LikelihoodSummary):
    """A validation and the step it was made after."""

    step: int


class RunSummary(TypedDict):
    """A run in a row of ``runs list``; what its record does not say is None."""

    run: str
    status: str | None
    created: str | None
    family: object
    block_size: object
    length: object
    parameters: int | None
    data: object
    step: int
    steps: object
    best: BestValidation | None
    parent: str | None


@dataclass(frozen=True)
class History:
    """What one run recorded.

    Attributes:
        record: its ``run.json``.
        rows: its ``metrics.jsonl``; a line that a crash left unfinished is dropped.
    """

    path: Path
    record: RunRecord
    rows: list[StepRow | ValidationRow]

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of ``loss``, ``gradient_norm``, ..., or ``validation.nats_per_token`` and its like."""
        kept = [(float(row.step), y) for row in self.rows if (y := row.number(name)) is not None]
        return [x for x, _ in kept], [y for _, y in kept]

    @property
    def best(self) -> BestValidation | None:
        """The validation with the lowest NELBO, with its step."""
        found = [row for row in self.rows if isinstance(row, ValidationRow)]
        row = min(found, key=lambda row: row.validation["nats_per_token"], default=None)
        return None if row is None else {"step": row.step, **row.validation}

    def summary(self) -> RunSummary:
        """One row of ``runs list``."""
        recipe, best = self.record.recipe, self.best
        family = recipe.get("objective.family")
        chosen = family in NAMES and get_family(family).chooses_blocks
        return {
            "run": str(self.path),
            "status": self.record.status,
            "created": self.record.created,
            "family": family,
            "block_size": recipe.get("objective.block_size") if chosen else None,
            "length": recipe.get("model.length"),
            "parameters": self.record.parameters,
            "data": recipe.get("data.name"),
            "step": self.record.step or (self.rows[-1].step if self.rows else 0),
            "steps": recipe.get("train.steps"),
            "best": best,
            "parent": next((p["run"] for p in chain(self.record)), None),
        }


def read_history(path: Path) -> History:
    """The record and the metrics of a run.

    Raises:
        InputError: it is no run, or its metrics are unreadable.
    """
    run = RunDirectory(path)
    return History(path, run.read_record(), run.metrics())


def find_runs(folder: Path) -> list[History]:
    """The runs in `folder` and below, oldest first; runs inside runs are not looked for.

    Raises:
        InputError: there is no such directory.
    """
    if not folder.is_dir():
        raise InputError(f"There is no directory {folder}. Name one that holds runs: bd3cli runs list DIRECTORY.")
    found: list[History] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if (here / RECORD).is_file():
            found.append(read_history(here))
        else:
            waiting += [p for p in here.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith(".")]
    return sorted(found, key=lambda h: (str(h.record.created), str(h.path)))


def differences(histories: list[History]) -> dict[str, list[object]]:
    """Dotted key -> value in each run, for the settings in which they differ."""
    recipes = [h.record.recipe for h in histories]
    table = {key: [recipe.get(key) for recipe in recipes] for key in known_keys() if key not in IGNORED}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


def panels(histories: list[History]) -> list[Panel]:
    """Training loss, validation and gradient norm against the step.

    Raises:
        InputError: none of the runs recorded anything.
    """
    drawn = [
        Panel("training loss", "step", "nats per token", _curves(histories, "loss", smooth=True)),
        Panel("validation NELBO, averaged weights", "step", "nats per token",
              _curves(histories, "validation.nats_per_token"), marked=True),
        Panel("gradient norm before clipping", "step", "norm", _curves(histories, "gradient_norm", smooth=True),
              logarithmic=True),
    ]  # fmt: skip
    last = max((x for panel in drawn for curve in panel.curves for x in curve.x), default=0.0)
    kept = [replace(panel, x_range=(0.0, last)) for panel in drawn if panel.curves]
    if not kept:
        raise InputError("These runs recorded no metrics, so there is nothing to draw. Train one for a few steps.")
    return kept


def _curves(histories: list[History], name: str, smooth: bool = False) -> list[Curve]:
    labels = _labels([h.path for h in histories])
    curves = []
    for label, history in zip(labels, histories, strict=True):
        x, y = history.series(name)
        if x:
            curves.append(Curve(label, x, _smoothed(y) if smooth else y))
    return curves


def _smoothed(values: list[float]) -> list[float]:
    """A centred running mean over about a fiftieth of the curve; short curves stay as they are."""
    half = len(values) // 100
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _labels(paths: list[Path]) -> list[str]:
    """The last part of each path, or all of it where that is not enough to tell them apart."""
    names = [path.name for path in paths]
    return [name if name and names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
