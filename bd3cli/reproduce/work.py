"""The worker of a reproduction: it does the tasks it is given and keeps their results in the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bd3cli.data import load_split
from bd3cli.errors import InputError
from bd3cli.recipes.resolve import Resolved, known_keys, resolve
from bd3cli.recipes.settings import Recipe
from bd3cli.reproduce import measures
from bd3cli.reproduce.cells import Measurement
from bd3cli.reproduce.context import Context
from bd3cli.reproduce.corpora import Corpus, find_corpus
from bd3cli.reproduce.jobs import TrainJob
from bd3cli.reproduce.request import Interrupted, Request, Watch
from bd3cli.reproduce.store import Store
from bd3cli.reproduce.tasks import Measuring, Task, Text, Training
from bd3cli.training.finetune import load_start
from bd3cli.training.loop import train

Measured = Mapping[str, Measurement]


@dataclass
class Work:
    """Whoever does tasks of a request, and tells a watch."""

    request: Request
    watch: Watch
    _texts: dict[str, Text] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.request.out)
        self.context = Context(self.request.scale, self.store, self.corpus, self.recipe, self.text)

    def prepare(self) -> None:
        """Write what several processes would write at once: slices of text that stand for corpora."""
        for table in self.request.tables:
            for name in (table.corpus, *(table.measures if table.kind == "zero-shot" else ())):
                self.corpus(name)

    def do(self, task: Task) -> Measured | None:
        """Do a task whose needs are met; what it measured, if that is what it does.

        Raises:
            Interrupted: a signal stopped a training.
            InputError: text or settings that cannot be used.
            RunError: a training failed.
        """
        if isinstance(task, Training):
            self.train(task.job, task.cost)
            return None
        measured = self.measure(task)
        self.watch.advance(task.cost)
        return measured

    def train(self, job: TrainJob, cost: float) -> None:
        """Train in the store, unless that is done; `cost` is what the watch is to be advanced by."""
        folder, state = self.store.run(job), self.store.state(job)
        if state == "finished":
            self.watch.advance(cost)
            return
        if state == "absent":
            self.store.clear(job)
        self.watch.doing(f"training {job.slug}")
        settings = dict(job.settings) | dict(self.corpus(job.corpus).settings) | {"seed": job.seed, "name": job.slug}
        start = None
        if job.parent and state == "absent":
            start = load_start(self.store.run(job.parent), checkpoint="last")
        clock = time.perf_counter()
        reporter = Steps(self.watch, cost / job.steps)
        result = train(_recipe(settings), folder, argv=[], resume=state == "resumable", start=start, reporter=reporter)
        seconds = time.perf_counter() - clock
        self.store.add_seconds(job, seconds)
        if result.signal is not None:
            raise Interrupted(result.signal)
        self.watch.done(f"trained {job.slug} in {seconds:.0f} s")

    def measure(self, task: Measuring) -> Measured:
        """The measures of one row under one seed."""
        table, row = task.table, task.table.row(task.row)
        found = self.found(table.corpus)
        if found.missing:
            return {measure: Measurement(None, note=found.missing) for measure in table.measures}
        self.watch.doing(f"{table.name}: measuring {row.title}, seed {task.seed}")
        runs = [self.store.run(job) for job in task.jobs]
        judge = self.store.run(task.judge) if task.judge else None
        return measures.measure(table, row, runs, judge, task.seed, self.context)

    def corpus(self, name: str) -> Corpus:
        return find_corpus(name, self.request.scale.name, self.request.data, self.store.corpora)

    def recipe(self, corpus: str) -> Resolved:
        """A recipe that reads the text behind a corpus name."""
        tokenizer = self.request.scale.settings["data.tokenizer"]
        return _recipe({**self.corpus(corpus).settings, "data.tokenizer": tokenizer})

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


def _recipe(settings: Mapping[str, Any]) -> Resolved:
    base = Resolved(Recipe(), dict.fromkeys(known_keys(), "default"))
    return resolve(None, {key: (value, "table") for key, value in settings.items()}, environment={}, base=base)
