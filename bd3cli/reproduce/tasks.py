"""A reproduction as a list of tasks: every training and every measurement once, what they need before them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from bd3cli.recipes.families import get_family
from bd3cli.reproduce.jobs import TrainJob, judge_job, row_jobs
from bd3cli.reproduce.scales import Scale
from bd3cli.reproduce.tables import Table


@dataclass(frozen=True)
class Text:
    """Fingerprint of the training tokens behind a corpus name; or, where they cannot be had, why."""

    fingerprint: str
    missing: str = ""


@dataclass(frozen=True)
class Training:
    """One training."""

    job: TrainJob

    @property
    def name(self) -> str:
        return self.job.key

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks to be done before this one."""
        return (self.job.parent.key,) if self.job.parent else ()

    @property
    def cost(self) -> float:
        """Units: a block diffusion step carries the clean sequence beside the noisy one."""
        return self.job.steps * (2 if get_family(dict(self.job.settings)["objective.family"]).reads_clean else 1)


@dataclass(frozen=True)
class Measuring:
    """All measures of one row under one seed.

    Attributes:
        jobs: the row's trainings, in the order of its candidates.
        judge: the training that rates its samples, for a table of sample quality.
    """

    table: Table
    row: str
    seed: int
    jobs: tuple[TrainJob, ...]
    judge: TrainJob | None
    cost: float

    @property
    def name(self) -> str:
        return f"{self.table.name}/{self.row}/{self.seed}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks to be done before this one."""
        return tuple(job.key for job in (*self.jobs, self.judge) if job is not None)


Task = Training | Measuring


def plan(tables: Iterable[Table], scale: Scale, seeds: Iterable[int], texts: Mapping[str, Text]) -> list[Task]:
    """Everything the tables need, table by table and seed by seed; what a task needs stands before it.

    Args:
        texts: by corpus name. Where there is none, nothing is trained.
    """
    found: dict[str, Task] = {}
    for table, seed in product(tables, seeds):
        text, judge = texts[table.corpus], None
        if table.kind == "sample-quality" and not text.missing:
            judge = judge_job(table, scale, text.fingerprint)
        for row in table.rows:
            jobs = () if text.missing else tuple(row_jobs(table, row, scale, seed, text.fingerprint))
            for job in (*jobs, *([judge] if judge else [])):
                for part in job.chain():
                    found.setdefault(part.key, Training(part))
            task = Measuring(table, row.id, seed, jobs, judge, measuring_cost(table, scale))
            found[task.name] = task
    return list(found.values())


def measuring_cost(table: Table, scale: Scale) -> float:
    """Units of measuring one row under one seed, roughly: passes over its test sequences, a third of a step each."""
    passes = {"zero-shot": len(table.measures), "best-of": 6, "sample-quality": 12, "length-stats": 12}
    variance = scale.variance_batches / 2 if "var_nelbo" in table.measures else 0
    batches = scale.sequences / int(scale.settings["train.batch_size"])
    return max(1, round(passes.get(table.kind, 1) * batches / 3 + variance))
