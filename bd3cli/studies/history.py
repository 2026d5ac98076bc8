"""Recorded runs: find them, read their metrics, list their differences."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bd3cli.errors import InputError
from bd3cli.exchange.inspection import chain
from bd3cli.recipes.resolve import known_keys
from bd3cli.runs.directory import METRICS, RECORD, RunDirectory
from bd3cli.studies.curves import Curve, Panel

IGNORED = ("name", "description")  # of no consequence for what was trained


@dataclass(frozen=True)
class History:
    """What one run recorded.

    Attributes:
        record: its ``run.json``.
        rows: its ``metrics.jsonl``; a line that a crash left unfinished is dropped.
    """

    path: Path
    record: dict[str, Any]
    rows: list[dict[str, Any]]

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of ``loss``, ``gradient_norm``, ..., or ``validation.nats_per_token`` and its like."""
        outer, _, inner = name.partition(".")
        found = [(row["step"], row[outer][inner] if inner else row[outer]) for row in self.rows if outer in row]
        kept = [(float(x), float(y)) for x, y in found if isinstance(y, (int, float))]
        return [x for x, _ in kept], [y for _, y in kept]

    @property
    def best(self) -> dict[str, Any] | None:
        """The validation with the lowest NELBO, with its step."""
        found = [{"step": row["step"], **row["validation"]} for row in self.rows if row.get("validation")]
        return min(found, key=lambda v: v["nats_per_token"], default=None)

    def summary(self) -> dict[str, Any]:
        """One row of ``runs list``."""
        recipe, best = self.record.get("recipe", {}), self.best
        family = recipe.get("objective.family")
        return {
            "run": str(self.path),
            "status": self.record.get("status"),
            "created": self.record.get("created"),
            "family": family,
            "block_size": recipe.get("objective.block_size") if family == "bd3lm" else None,
            "length": recipe.get("model.length"),
            "parameters": self.record.get("parameters"),
            "data": recipe.get("data.name"),
            "step": self.record.get("step") or (self.rows[-1]["step"] if self.rows else 0),
            "steps": recipe.get("train.steps"),
            "best": best,
            "parent": next((p["run"] for p in chain(self.record)), None),
        }


def read_history(path: Path) -> History:
    """The record and the metrics of a run.

    Raises:
        InputError: it is no run, or its metrics are unreadable.
    """
    record = RunDirectory(path).read_record()
    try:
        text = (path / METRICS).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path / METRICS} cannot be read: {error}.") from error
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return History(path, record, rows)


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
    return sorted(found, key=lambda h: (str(h.record.get("created")), str(h.path)))


def differences(histories: list[History]) -> dict[str, list[Any]]:
    """Dotted key -> value in each run, for the settings in which they differ."""
    recipes = [h.record.get("recipe", {}) for h in histories]
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
