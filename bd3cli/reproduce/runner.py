"""Run tables: do what is missing of their tasks, report each as soon as it is complete."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bd3cli.device import choose_device, processor_name
from bd3cli.files import write_whole
from bd3cli.plugins import metadata_version
from bd3cli.reproduce.cells import Cell, combine, is_logarithmic
from bd3cli.reproduce.claims import Outcome, judge
from bd3cli.reproduce.page import page
from bd3cli.reproduce.plots import draw
from bd3cli.reproduce.pool import carry_out
from bd3cli.reproduce.report import TableResult, markdown
from bd3cli.reproduce.request import Interrupted, Request, Watch
from bd3cli.reproduce.tables import Table, table_names
from bd3cli.reproduce.tasks import Measuring, Task, plan
from bd3cli.reproduce.work import Measured, Work
from bd3cli.version import __version__


@dataclass(frozen=True)
class Finished:
    """How a reproduction ended: results of the tables completed, and the signal that stopped it, if one did."""

    results: tuple[TableResult, ...]
    signal: int | None = None


def reproduce(request: Request, watch: Watch) -> Finished:
    """Run the tables; each is reported as soon as it is complete.

    Raises:
        InputError: text or settings that cannot be used.
        RunError: a training failed.
    """
    work = Work(request, watch)
    work.prepare()
    texts = {table.corpus: work.found(table.corpus) for table in request.tables}
    tasks = plan(request.tables, request.scale, request.chosen_seeds, texts)
    watch.begin(sum(task.cost for task in tasks))
    measured: dict[str, Measured] = {}
    results: list[TableResult] = []
    try:
        for task, found in carry_out(tasks, work):
            if found is not None:
                measured[task.name] = found
            while len(results) < len(request.tables):
                own = of_table(request.tables[len(results)], tasks)
                if any(part.name not in measured for part in own):
                    break
                results.append(result_of(request.tables[len(results)], own, measured, work))
                write_reports(request, results[-1])
                watch.done(f"{results[-1].table.name}: done, {request.out / (results[-1].table.name + '.md')}")
    except Interrupted as stop:
        return Finished(tuple(results), stop.signal)
    return Finished(tuple(results))


def of_table(table: Table, tasks: Sequence[Task]) -> list[Measuring]:
    """The table's measurements among all tasks."""
    return [task for task in tasks if isinstance(task, Measuring) and task.table == table]


def result_of(table: Table, own: Sequence[Measuring], measured: Mapping[str, Measured], work: Work) -> TableResult:
    """The table of what was measured."""
    by_row: dict[str, list[Measured]] = {row.id: [] for row in table.rows}
    for task in own:
        by_row[task.row].append(measured[task.name])
    cells = {
        id: {m: combine([found[m] for found in by_seed], is_logarithmic(m, table.kind)) for m in table.measures}
        for id, by_seed in by_row.items()
    }
    return TableResult(table, cells, outcomes(table, cells), provenance(table, own, work))


def provenance(table: Table, own: Sequence[Measuring], work: Work) -> dict[str, Any]:
    """Where the table's numbers come from: budget, seeds, text, software, machine, computing time."""
    request, scale = work.request, work.request.scale
    names = [table.corpus, *(table.measures if table.kind == "zero-shot" else ())]
    trained = {part.key: part for task in own for job in (*task.jobs, task.judge) if job for part in job.chain()}
    return {
        "scale": scale.name,
        "description": scale.description,
        "seeds": list(request.chosen_seeds),
        "steps": scale.steps,
        "tokens_per_step": int(scale.settings["train.batch_size"]) * scale.lengths[table.corpus],
        "settings": dict(scale.settings),
        "corpora": {name: work.corpus(name).source for name in names},
        "command": request.command,
        "versions": {"bd3cli": __version__, "python": platform.python_version()}
        | {name: metadata_version(name) for name in ("torch", "numpy", "scipy")},
        "machine": f"{processor_name(choose_device('auto').type)}, {os.cpu_count()} cores, {platform.system()}",
        "jobs": request.jobs,
        "trainings": len(trained),
        "seconds": sum(map(work.store.seconds, trained.values())),
    }


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


def write_reports(request: Request, newest: TableResult) -> None:
    """Markdown, JSON and a picture of a table, and one page for all tables there are of the scale."""
    request.out.mkdir(parents=True, exist_ok=True)
    name = newest.table.name
    text = markdown(newest, picture=f"{name}.png" if request.plots else "")
    write_whole(request.out / f"{name}.md", text)
    document = {"schema": 1, **newest.as_dict()}
    write_whole(request.out / f"{name}.json", json.dumps(document, indent=1) + "\n")
    if request.plots:
        draw(newest, request.out / f"{name}.png")
    others = [
        r for r in read_reports(request.out) if r.table.name != name and r.provenance["scale"] == request.scale.name
    ]
    results = sorted([*others, newest], key=lambda result: table_names().index(result.table.name))
    pictures = {r.table.name: path for r in results if (path := request.out / f"{r.table.name}.png").is_file()}
    write_whole(request.out / "index.html", page(results, pictures if request.plots else {}))


def read_reports(folder: Path) -> list[TableResult]:
    """The tables reported in a directory, in their order; what cannot be read as one is left out."""
    found = []
    for name in table_names():
        with suppress(OSError, ValueError, KeyError, TypeError):
            found.append(TableResult.from_dict(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))))
    return found
