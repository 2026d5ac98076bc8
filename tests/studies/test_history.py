"""Runs after the fact: lists, pictures, comparisons; and the trackers beside the run's own metrics."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import types
from pathlib import Path

import pytest

from bd3cli.errors import InputError
from bd3cli.recipes.resolve import resolve
from bd3cli.runs.records import ValidationRow
from bd3cli.studies.history import find_runs, panels, read_history
from bd3cli.training.loop import train
from bd3cli.training.reporter import Silent


@pytest.fixture(scope="module")
def tracked_run(tmp_path_factory: pytest.TempPathFactory, quick) -> Path:
    """Six steps with event files beside the metrics, interrupted by a resume."""
    pytest.importorskip("tensorboard")
    from bd3cli.training.resume import resume_recipe

    folder = tmp_path_factory.mktemp("tracked") / "deep" / "run"
    overrides = [*quick, "train.steps=4", "train.log_every=1", "train.validate_every=2", "train.tracking=tensorboard"]
    train(resolve("tiny", overrides=overrides), folder)
    train(resume_recipe(folder, None, {}, ["train.steps=6"]), folder, resume=True)
    return folder


def test_event_files_say_what_the_metrics_say(tracked_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked_run / "tensorboard"))
    events.Reload()
    history = read_history(tracked_run)
    for tag, name in (("train/loss", "loss"), ("train/gradient_norm", "gradient_norm"),
                      ("validation/bits_per_byte", "validation.bits_per_byte"),
                      ("validation/nats_per_token", "validation.nats_per_token")):  # fmt: skip
        steps, values = history.series(name)
        scalars = events.Scalars(tag)
        assert [s.step for s in scalars] == steps, tag
        assert [s.value for s in scalars] == pytest.approx(values, rel=1e-6), tag
    assert history.series("loss")[0] == [1, 2, 3, 4, 5, 6]


def test_runs_are_listed_shown_and_compared(tracked_run: Path, trained_ar: Path, tmp_path: Path, cli) -> None:
    shutil.copytree(tracked_run, tmp_path / "runs" / "nested" / "a")
    shutil.copytree(trained_ar, tmp_path / "runs" / "b")
    with (tmp_path / "runs" / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "lo')  # a crash in the middle of a line
    listed = cli("runs", "list", tmp_path / "runs", "--json").json["runs"]
    assert {(Path(r["run"]).name, r["family"], r["block_size"], r["step"], r["steps"]) for r in listed} == {
        ("a", "bd3lm", 4, 6, 6),
        ("b", "ar", None, 40, 40),
    }
    for row in listed:
        rows = read_history(Path(row["run"])).rows
        validations = [r.validation for r in rows if isinstance(r, ValidationRow)]
        assert row["best"]["nats_per_token"] == min(v["nats_per_token"] for v in validations)
    a, b = tmp_path / "runs" / "nested" / "a", tmp_path / "runs" / "b"
    compared = cli("runs", "compare", a, b, "--json").json
    assert compared["differences"]["objective.family"] == ["bd3lm", "ar"]
    assert compared["differences"]["train.steps"] == [6, 40]
    assert "train.batch_size" not in compared["differences"]
    table = cli("runs", "compare", a, b)
    assert "best perplexity" in table.out
    shown = cli("runs", "show", a)
    assert "finished, step 6 of 6" in shown.out
    assert "at step 4" in shown.out
    assert "train.tracking" in shown.out
    assert cli("runs", "show", a, "--json").json["record"]["recipe"]["train.steps"] == 6
    assert "bd3lm" in cli("runs", "list", tmp_path / "runs").out


def test_curves_are_drawn(tracked_run: Path, trained_ar: Path, tmp_path: Path, cli) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "curves.png"
    done = cli("runs", "plot", tracked_run, trained_ar, "--png", png, "--json")
    assert done.code == 0, done.err
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 2 * height
    drawn = {panel["title"]: panel["curves"] for panel in done.json["panels"]}
    loss = drawn["training loss"][0]
    assert (loss["step"], loss["value"]) == read_history(tracked_run).series("loss")
    assert {curve["run"] for curve in drawn["training loss"]} == {"run", "ar"}
    assert "training loss" in cli("runs", "plot", tracked_run).out


def test_what_is_no_run_is_refused(tmp_path: Path, cli) -> None:
    assert cli("runs", "list", tmp_path, "--json").json["runs"] == []
    for arguments, message in (
        (("list", tmp_path / "absent"), "There is no directory"),
        (("show", tmp_path), "is not a run"),
        (("plot", tmp_path), "is not a run"),
        (("compare", tmp_path), "is not a run"),
    ):
        refused = cli("runs", *arguments)
        assert (refused.code, message in refused.err, refused.out) == (2, True, "")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="recorded no metrics"):
        panels([read_history(tmp_path)])
    assert [h.path for h in find_runs(tmp_path)] == [tmp_path]


class FakeWandb(types.ModuleType):
    """The few calls that are made of wandb, written down."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict] = []
        self.logged: list[tuple[int, dict]] = []
        self.ended: list[int] = []

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, values: dict, step: int) -> None:
        self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


def test_wandb_is_told_the_recipe_and_the_numbers(tmp_path: Path, quick, monkeypatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    overrides = [*quick, "train.steps=2", "train.log_every=1", "train.tracking=wandb"]
    train(resolve("tiny", overrides=overrides), tmp_path / "run")
    (options,) = fake.started
    assert (options["project"], options["name"], options["resume"]) == ("bd3cli", "run", "allow")
    assert options["config"]["train.steps"] == 2
    losses = [(step, values["train/loss"]) for step, values in fake.logged if "train/loss" in values]
    assert losses == list(zip(*read_history(tmp_path / "run").series("loss"), strict=True))
    assert [s for s, values in fake.logged if "validation/ppl" in values] == [2]
    assert fake.ended == [0]

    class Failing(Silent):
        def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        train(resolve("tiny", overrides=overrides), tmp_path / "failed", reporter=Failing())
    assert fake.ended == [0, 1]
    assert fake.started[1]["id"] != options["id"]


def test_wandb_that_cannot_start_is_explained(tmp_path: Path, quick, monkeypatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(fake, "init", lambda **options: 1 / 0)
    with pytest.raises(InputError, match=r"wandb could not start.*WANDB_MODE=offline"):
        train(resolve("tiny", overrides=[*quick, "train.steps=2", "train.tracking=wandb"]), tmp_path / "run")


def test_wandb_offline(tmp_path: Path, quick, monkeypatch) -> None:
    """The real library, without a network or an account."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(resolve("tiny", overrides=[*quick, "train.steps=2", "train.tracking=wandb"]), tmp_path / "run")
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert log.stat().st_size > 0


def test_trackers_that_are_unknown_or_absent_are_refused_before_any_work(tmp_path: Path, quick, monkeypatch) -> None:
    with pytest.raises(InputError, match="Did you mean 'tensorboard'"):
        resolve("tiny", overrides=["train.tracking=tensorbord"])
    assert json.dumps(resolve("tiny").recipe.train.tracking) == '"none"'
    monkeypatch.setitem(sys.modules, "wandb", None)
    resolved = resolve("tiny", overrides=[*quick, "train.tracking=tensorboard, wandb"])
    with pytest.raises(InputError, match=r"needs the package wandb.*bd3cli\[wandb\]"):
        train(resolved, tmp_path / "run")
    assert not (tmp_path / "run").exists()
