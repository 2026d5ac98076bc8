"""Several processes at one reproduction: the same numbers, and an orderly end whatever happens."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bd3cli.errors import InputError, RunError
from bd3cli.reproduce import pool
from bd3cli.reproduce.request import Request
from bd3cli.reproduce.runner import reproduce
from bd3cli.reproduce.scales import Scale
from bd3cli.reproduce.tables import load_table


@pytest.fixture
def scale(instant: Scale) -> Scale:
    return replace(instant, seeds=(0,))


def test_two_processes_find_what_one_finds(tmp_path: Path, scale: Scale, new_log: Callable[[], Any]) -> None:
    table = load_table("lm1b-families")  # its rows share a first stage
    table = replace(table, rows=table.rows[-3:], claims=())
    logs, cells = [], []
    for jobs in (1, 2):
        logs.append(new_log())
        (result,) = reproduce(Request((table,), scale, tmp_path / str(jobs), jobs=jobs, plots=False), logs[-1]).results
        cells.append({id: row["ppl"].value for id, row in result.cells.items()})
        assert result.provenance["trainings"] == 4
        assert result.provenance["seconds"] > 0
    assert cells[0] == pytest.approx(cells[1], rel=1e-5)
    for log in logs:
        assert log.units == pytest.approx(log.total)
        assert len([line for line in log.lines if line.startswith("trained")]) == 4


def test_a_process_that_dies_is_told_of_and_the_others_end(
    tmp_path: Path, scale: Scale, new_log: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(*given: object) -> pool.Worker:
        started.append(real(*given))  # type: ignore[arg-type]
        if len(started) == 2:
            started[0].process.kill()
        return started[-1]

    real: Callable[..., pool.Worker] = pool.start
    monkeypatch.setattr(pool, "start", start)
    with pytest.raises(RunError, match=r"ended with exit code -9.*--jobs 1 needs less"):
        reproduce(Request((load_table("single-token"),), scale, tmp_path, jobs=2, plots=False), new_log())
    assert not any(worker.process.is_alive() for worker in started)


def test_what_fails_in_a_process_is_told_by_the_first_one(
    tmp_path: Path, scale: Scale, new_log: Callable[[], Any]
) -> None:
    broken = replace(scale, settings={**scale.settings, "train.learning_rate": 1e30})
    with pytest.raises(InputError, match=r"learning_rate must lie"):
        reproduce(Request((load_table("single-token"),), broken, tmp_path, jobs=2, plots=False), new_log())


def test_a_signal_stops_all_processes_in_good_order_and_the_work_goes_on(
    tmp_path: Path, scale: Scale, new_log: Callable[[], Any]
) -> None:
    long = replace(scale, steps=3000)
    request = Request((load_table("single-token"),), long, tmp_path, jobs=2, plots=False)

    class Impatient(type(new_log())):
        """Asks to stop once two trainings are under way."""

        def advance(self, units: float) -> None:
            super().advance(units)
            if len([folder for folder in (tmp_path / "runs").glob("*") if (folder / "metrics.jsonl").is_file()]) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    finished = reproduce(request, Impatient())
    assert (finished.signal, finished.results) == (signal.SIGINT, ())
    steps = [
        sorted(path.name for path in (run / "checkpoints").glob("step-*")) for run in (tmp_path / "runs").iterdir()
    ]
    assert len(steps) == 2
    assert all(len(names) == 1 for names in steps)  # each left a checkpoint
    assert signal.getsignal(signal.SIGINT) is before
