"""Run tables: train what is missing, measure what is missing, report."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bd3cli import __version__
from bd3cli.config import Recipe
from bd3cli.data import load_split
from bd3cli.errors import InputError
from bd3cli.plugins import metadata_version
from bd3cli.reproduce import measures
from bd3cli.reproduce.cells import Cell, Measurement, combine, is_logarithmic
from bd3cli.reproduce.claims import Outcome, judge
from bd3cli.reproduce.corpora import Corpus, find_corpus
from bd3cli.reproduce.jobs import TrainJob, judge_job, row_jobs, trainings
from bd3cli.reproduce.page import page
from bd3cli.reproduce.plots import draw
from bd3cli.reproduce.report import TableResult, markdown
from bd3cli.reproduce.scales import Scale
from bd3cli.reproduce.store import Store
from bd3cli.reproduce.tables import Row, Table
from bd3cli.resolve import Resolved, known_keys, resolve
from bd3cli.training.finetune import load_start
from bd3cli.training.loop import train


class Watch(Protocol):
    """Whoever follows a reproduction. Units are estimated costs, in training steps of the smallest row."""

    def begin(self, total: int) -> None: ...

    def doing(self, text: str) -> None: ...

    def advance(self, units: float) -> None: ...

    def done(self, text: str) -> None: ...


@dataclass(frozen=True)
class Request:
    """What to reproduce.

    Attributes:
        out: directory of the work and the reports.
        data: local copies of registered data sets by name.
        seeds: number of seeds, None for the scale's own.
        command: for the report.
    """

    tables: tuple[Table, ...]
    scale: Scale
    out: Path
    data: Mapping[str, str] = field(default_factory=dict)
    seeds: int | None = None
    plots: bool = True
    command: str = ""

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        return self.scale.seeds if self.seeds is None else tuple(range(self.seeds))


@dataclass(frozen=True)
class Finished:
    """How a reproduction ended: results of the tables completed, and the signal that stopped it, if one did."""

    results: tuple[TableResult, ...]
    signal: int | None = None


class Interrupted(Exception):
    """A training was stopped by a signal; it has saved a checkpoint."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def reproduce(request: Request, watch: Watch) -> Finished:
    """Run the tables one after another; each is reported as soon as it is complete.

    Raises:
        InputError: text or settings that cannot be used.
        RunError: a training failed.
    """
    work = Work(request, watch)
    watch.begin(work.cost())
    results: list[TableResult] = []
    try:
        for table in request.tables:
            results.append(work.table(table))
            write_reports(request, results)
            watch.done(f"{table.name}: done, {request.out / (table.name + '.md')}")
    except Interrupted as stop:
        return Finished(tuple(results), stop.signal)
    return Finished(tuple(results))


@dataclass(frozen=True)
class Text:
    """Fingerprint of the training tokens behind a corpus name; or, where they cannot be had, why."""

    fingerprint: str
    missing: str = ""


@dataclass
class Work:
    """A reproduction under way."""

    request: Request
    watch: Watch
    _texts: dict[str, Text] = field(default_factory=dict)
    _counted: set[str] = field(default_factory=set)  # trainings whose cost the bar has seen

    def __post_init__(self) -> None:
        self.store = Store(self.request.out)
        self.context = measures.Context(self.request.scale, self.store, self.corpus, self.recipe, self.text, self.judge)

    def cost(self) -> int:
        """Units of everything the tables need, done or not."""
        jobs = trainings(self.request.tables, self.request.scale, self.request.chosen_seeds)
        return sum(map(training_cost, jobs)) + sum(
            len(self.request.chosen_seeds) * len(table.rows) * measuring_cost(table, self.request.scale)
            for table in self.request.tables
        )

    def corpus(self, name: str) -> Corpus:
        return find_corpus(name, self.request.scale.name, self.request.data, self.store.corpora)

    def recipe(self, corpus: str) -> Resolved:
        """A recipe that reads the text behind a corpus name."""
        tokenizer = self.request.scale.settings["data.tokenizer"]
        return _recipe({**self.corpus(corpus).settings, "data.tokenizer": tokenizer})

    def judge(self, table: Table) -> Path:
        """The run that rates the samples of a table's models."""
        return self.trained(judge_job(table, self.request.scale, self.text(table.corpus)))

    def table(self, table: Table) -> TableResult:
        clock, seeds = time.perf_counter(), self.request.chosen_seeds
        measured: dict[str, list[dict[str, Measurement]]] = {row.id: [] for row in table.rows}
        for seed in seeds:
            for row in table.rows:
                measured[row.id].append(self.row(table, row, seed))
        cells = {
            row.id: {
                measure: combine([by[measure] for by in measured[row.id]], is_logarithmic(measure, table.kind))
                for measure in table.measures
            }
            for row in table.rows
        }
        seconds = time.perf_counter() - clock
        return TableResult(table, cells, outcomes(table, cells), self.provenance(table, seconds))

    def row(self, table: Table, row: Row, seed: int) -> dict[str, Measurement]:
        """Train what the row needs under one seed, and measure it."""
        found = self.found(table.corpus)
        if found.missing:
            return {measure: Measurement(None, note=found.missing) for measure in table.measures}
        runs = [self.trained(job) for job in row_jobs(table, row, self.request.scale, seed, found.fingerprint)]
        self.watch.doing(f"{table.name}: measuring {row.title}, seed {seed}")
        measured = measures.measure(table, row, runs, seed, self.context)
        self.watch.advance(measuring_cost(table, self.request.scale))
        return measured

    def found(self, corpus: str) -> Text:
        """The training tokens behind a corpus name, or why there are none."""
        if corpus not in self._texts:
            try:
                split = load_split(self.recipe(corpus).recipe.data, "train", self.request.scale.lengths[corpus])
                self._texts[corpus] = Text(split.fingerprint)
            except InputError as error:
                self._texts[corpus] = Text("", f"no data: {error}")
        return self._texts[corpus]

    def text(self, corpus: str) -> str:
        return self.found(corpus).fingerprint

    def trained(self, job: TrainJob) -> Path:
        """The run directory of a training, trained now unless it is there already."""
        parent = self.trained(job.parent) if job.parent else None
        folder, state = self.store.run(job), self.store.state(job)
        new = job.key not in self._counted
        self._counted.add(job.key)
        if state == "finished":
            self.watch.advance(training_cost(job) if new else 0)
            return folder
        if state == "absent":
            self.store.clear(job)
        self.watch.doing(f"training {job.slug}")
        settings = dict(job.settings) | dict(self.corpus(job.corpus).settings) | {"seed": job.seed, "name": job.slug}
        start = load_start(parent, checkpoint="last") if parent and state == "absent" else None
        resolved = _recipe(settings)
        clock = time.perf_counter()
        reporter = Steps(self.watch, training_cost(job) / job.steps)
        result = train(resolved, folder, argv=[], resume=state == "resumable", start=start, reporter=reporter)
        if result.signal is not None:
            raise Interrupted(result.signal)
        self.watch.done(f"trained {job.slug} in {time.perf_counter() - clock:.0f} s")
        return folder

    def provenance(self, table: Table, seconds: float) -> dict[str, Any]:
        scale = self.request.scale
        names = [table.corpus, *(table.measures if table.kind == "zero-shot" else ())]
        return {
            "scale": scale.name,
            "description": scale.description,
            "seeds": list(self.request.chosen_seeds),
            "steps": scale.steps,
            "tokens_per_step": int(scale.settings["train.batch_size"]) * scale.lengths[table.corpus],
            "corpora": {name: self.corpus(name).source for name in names},
            "command": self.request.command,
            "versions": {"bd3cli": __version__, "python": platform.python_version()}
            | {name: metadata_version(name) for name in ("torch", "numpy", "scipy")},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            "seconds": seconds,
        }


@dataclass
class Steps:
    """A training's reporter that moves the one bar; it says nothing else."""

    watch: Watch
    unit: float
    _seen: int = 0

    def notice(self, text: str) -> None: ...

    def data(self, stage: str, done: int, total: int) -> None: ...

    def validation(self, step: int, result: Any) -> None: ...

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        self.watch.advance((step - self._seen) * self.unit)
        self._seen = step


def outcomes(table: Table, cells: Mapping[str, Mapping[str, Cell]]) -> tuple[Outcome, ...]:
    """The table's claims, each tested."""
    found = []
    for claim in table.claims:
        first, second = (cells[id][claim.measure] for id in (claim.first, claim.second))
        pair = None
        if first.sequences is not None and second.sequences is not None:
            pair = (first.sequences, second.sequences)
        found.append(judge(claim, first.raw, second.raw, pair))
    return tuple(found)


def write_reports(request: Request, results: Sequence[TableResult]) -> None:
    """Markdown, JSON and a picture for the newest table; one page for all so far."""
    request.out.mkdir(parents=True, exist_ok=True)
    newest, name = results[-1], results[-1].table.name
    (request.out / f"{name}.md").write_text(markdown(newest), encoding="utf-8")
    document = {"schema": 1, **newest.as_dict()}
    (request.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if request.plots:
        draw(newest, request.out / f"{name}.png")
    pictures = {r.table.name: request.out / f"{r.table.name}.png" for r in results} if request.plots else {}
    (request.out / "index.html").write_text(page(results, pictures), encoding="utf-8")


def training_cost(job: TrainJob) -> int:
    """Units of a training: a block diffusion step carries the clean sequence beside the noisy one."""
    return job.steps * (2 if dict(job.settings)["objective.family"] == "bd3lm" else 1)


def measuring_cost(table: Table, scale: Scale) -> int:
    """Units of measuring one row under one seed, roughly: passes over its test sequences, a third of a step each."""
    passes = {"zero-shot": len(table.measures), "best-of": 6, "sample-quality": 12, "length-stats": 12}
    variance = scale.variance_batches if "var_nelbo" in table.measures else 0
    batches = scale.sequences / int(scale.settings["train.batch_size"])
    return max(1, round(passes.get(table.kind, 1) * batches / 3 + variance))


def _recipe(settings: Mapping[str, Any]) -> Resolved:
    base = Resolved(Recipe(), dict.fromkeys(known_keys(), "default"))
    return resolve(None, {key: (value, "table") for key, value in settings.items()}, environment={}, base=base)


