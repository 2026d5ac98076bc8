"""The trainings behind the rows of a table, identified by content."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bd3cli.hashing import digest
from bd3cli.recipes.families import get_family
from bd3cli.reproduce.scales import Scale
from bd3cli.reproduce.tables import Objective, Row, Table
from bd3cli.rng import STREAM_VERSION
from bd3cli.version import __version__

JUDGE_SEED = 1000  # no row has it


@dataclass(frozen=True)
class TrainJob:
    """A training, identified by all that decides its weights: rows and tables that agree on it share it.

    Attributes:
        corpus: training corpus by its registered name.
        text: fingerprint of the tokens behind that name; empty where a job is only counted.
        settings: recipe keys and values, data apart, in order.
        parent: the training whose weights this one starts from.
    """

    corpus: str
    text: str
    settings: tuple[tuple[str, Any], ...]
    seed: int
    parent: TrainJob | None = None

    @cached_property
    def key(self) -> str:
        """Content hash."""
        parent = self.parent.key if self.parent else None
        settings = [list(pair) for pair in self.settings]
        return digest([__version__, STREAM_VERSION, self.text, settings, self.seed, parent])

    @cached_property
    def slug(self) -> str:
        """Readable and unique: the run directory's name."""
        objective = {k.removeprefix("objective."): v for k, v in self.settings if k.startswith("objective.")}
        words = [self.corpus, objective["family"]]
        if get_family(objective["family"]).chooses_blocks:
            words.append(str(objective["block_size"]))
        clip = objective.get("clip")
        extras = [objective.get("schedule"), objective.get("weight"), "-".join(map(str, clip)) if clip else None]
        words += [str(word) for word in extras if word]
        if self.parent:
            words.append("finetuned")
        readable = re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower())[:60].strip("-")
        return f"{readable}-s{self.seed}-{self.key[:8]}"

    @property
    def steps(self) -> int:
        return int(dict(self.settings)["train.steps"])

    def chain(self) -> Iterator[TrainJob]:
        """This training after those it starts from."""
        if self.parent:
            yield from self.parent.chain()
        yield self


def train_job(
    table: Table, objective: Objective, scale: Scale, seed: int, pretrain: Objective | None = None, text: str = ""
) -> TrainJob:
    """The training of one row under one seed; with `pretrain`, the second half of two."""
    parent = _job(table, pretrain, scale, seed, "pretrain", None, text) if pretrain else None
    return _job(table, objective, scale, seed, "finetune" if parent else "whole", parent, text)


def judge_job(table: Table, scale: Scale, text: str = "") -> TrainJob:
    """The run that rates the samples of a table's models: an ar network of the same budget, a seed of its own."""
    return train_job(table, {"family": "ar"}, scale, JUDGE_SEED, text=text)


def row_jobs(table: Table, row: Row, scale: Scale, seed: int, text: str = "") -> list[TrainJob]:
    """The row's trainings: none for the data themselves, one as a rule, one a candidate for a best-of row."""
    if row.objective is None:
        return []
    if not row.candidates:
        return [train_job(table, row.objective, scale, seed, row.pretrain, text)]
    alternatives = [{k: v for k, v in candidate.items() if k != "label"} for candidate in row.candidates]
    return [
        train_job(table, {**row.objective, **alternative}, scale, seed, row.pretrain, text)
        for alternative in alternatives
    ]


def _job(
    table: Table,
    objective: Mapping[str, Any],
    scale: Scale,
    seed: int,
    stage: str,
    parent: TrainJob | None,
    text: str,
) -> TrainJob:
    clip = objective.get("clip")
    settings: dict[str, Any] = {f"objective.{key}": value for key, value in objective.items()}
    if clip is not None:
        settings["objective.clip"] = (float(clip[0]), float(clip[1]))
    settings |= scale.settings
    settings["model.length"] = scale.lengths[table.corpus]
    settings["train.steps"] = scale.steps_of(stage)
    # one validation, at the end: best and last are then the same weights for every row
    settings["train.validate_every"] = settings["train.checkpoint_every"] = settings["train.steps"]
    return TrainJob(table.corpus, text, tuple(sorted(settings.items())), seed, parent)
