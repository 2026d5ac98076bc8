"""What stops a run, and what a stopped run leaves behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bd3cli.cli.recipe_options import seconds
from bd3cli.errors import InputError, RunError
from bd3cli.model.state import weights_sha256
from bd3cli.recipes.resolve import resolve
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory
from bd3cli.training.guards import Guard
from bd3cli.training.loop import optimizer_step, step_data, train
from bd3cli.training.reporter import Silent
from bd3cli.training.resume import resume_recipe
from bd3cli.training.trainer import Trainer, prepare


class Listen(Silent):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.fixture
def trainer(quick) -> Trainer:
    return prepare(resolve("tiny", overrides=list(quick)).recipe, Silent())


def test_a_bad_gradient_never_reaches_the_weights(trainer: Trainer, tmp_path: Path) -> None:
    guard = Guard(trainer, RunDirectory(tmp_path), Silent())
    optimizer_step(trainer, step_data(trainer, 0), guard)
    before = weights_sha256(trainer.model.state_dict()), weights_sha256(trainer.averaged.state_dict())
    name, parameter = next(iter(trainer.model.named_parameters()))
    parameter.register_hook(lambda grad: torch.full_like(grad, torch.inf))
    data = step_data(trainer, 1)
    with pytest.raises(RunError, match=r"gradient norm (inf|nan) at step 2 .* of a block masked, .* sequences \d+, "):
        optimizer_step(trainer, data, guard)
    assert (weights_sha256(trainer.model.state_dict()), weights_sha256(trainer.averaged.state_dict())) == before
    facts = json.loads((tmp_path / "nonfinite-step-00000002.json").read_text())
    assert facts["sequences"] == data.indices == trainer.order.indices(1)
    assert facts["nonfinite_weights"] == []
    assert name in facts["nonfinite_gradients"]
    assert facts["masked_fraction"] == [0.25, 1.0]
    assert facts["loss_weight"] == [1.0, 4.0]


def test_an_accelerator_is_looked_at_before_anything_is_saved(trainer: Trainer, tmp_path: Path) -> None:
    """There, steps are only counted until the loop asks; then the first bad one is named."""
    guard = Guard(trainer, RunDirectory(tmp_path), Silent())
    data = step_data(trainer, 0)
    trainer.device = torch.device("meta")  # stands for any device that runs ahead
    for step, loss in enumerate([3.0, float("nan"), 2.0]):
        trainer.step = step
        guard.note(torch.tensor(loss), torch.tensor(1.0), data)
    with pytest.raises(RunError, match=r"The loss is nan with gradient norm 1\.0 at step 2 "):
        guard.check()


def test_a_jump_of_the_loss_is_noticed_once(trainer: Trainer, tmp_path: Path) -> None:
    listen = Listen()
    guard, data = Guard(trainer, RunDirectory(tmp_path), listen), step_data(trainer, 0)
    for step in range(60):
        trainer.step = step
        loss = 3.0 + 0.1 * (step % 3)
        guard.note(torch.tensor(loss if step not in (40, 41, 45) else 9.0), torch.tensor(1.0), data)
    assert len(listen.notices) == 1
    assert "step 41: the loss jumped to 9.000 from about 3.1" in listen.notices[0]


def test_time_runs_out_and_the_run_goes_on_later(cli, tmp_path: Path, quick) -> None:
    settings = [f for item in (*quick, "train.steps=14", "train.log_every=1") for f in ("--set", item)]
    run = tmp_path / "run"
    stopped = cli("train", "--out", run, *settings, "--max-time", "0.01s", "--json")
    assert (stopped.code, stopped.json["status"]) == (0, "paused")
    assert "paused at step 1; a checkpoint is saved, --resume --out" in stopped.err
    assert RunDirectory(run).read_record().status == "paused"
    assert cli("train", "--resume", "--out", run, "--json").json["status"] == "finished"
    train(resolve("tiny", overrides=[*quick, "train.steps=14"]), tmp_path / "whole")
    ours, theirs = (CheckpointStore(r / "checkpoints").load("last").weights() for r in (run, tmp_path / "whole"))
    assert weights_sha256(ours) == weights_sha256(theirs)


@pytest.mark.parametrize(
    ("text", "value"), [("90m", 5400), ("3600s", 3600), ("45", 45), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0s", "1..5h", "m", "nan", "5m 3 weeks"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a duration"):
        seconds(text)


def test_two_processes_cannot_train_one_run(tmp_path: Path, quick) -> None:
    resolved = resolve("tiny", overrides=[*quick, "train.steps=4"])
    run = RunDirectory(tmp_path / "run")

    class Meddle(Silent):
        refused = ""

        def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
            if step == 1:
                with pytest.raises(InputError, match="being trained by another process"), run.claimed():
                    pass
                self.refused = "yes"

    meddle = Meddle()
    train(resolved, run.path, reporter=meddle)
    assert meddle.refused
    with run.claimed():
        pass


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path, quick) -> None:
    resolved = resolve("tiny", overrides=[*quick, "train.steps=6", "train.log_every=1"])
    train(resolved, tmp_path / "run")
    before = CheckpointStore(tmp_path / "run" / "checkpoints").load("last").weights()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    listen = Listen()
    train(resume_recipe(tmp_path / "run", None, {}, []), tmp_path / "run", resume=True, reporter=listen)
    assert any("no checkpoint yet: starting again from step 0" in text for text in listen.notices)
    assert weights_sha256(CheckpointStore(tmp_path / "run" / "checkpoints").load("last").weights()) == weights_sha256(
        before
    )
    assert [r["step"] for r in map(json.loads, (tmp_path / "run" / "metrics.jsonl").open())] == [1, 2, 3, 4, 5, 6, 6]


def test_a_run_killed_just_before_its_end_is_finished_by_resuming(tmp_path: Path, quick) -> None:
    resolved = resolve("tiny", overrides=[*quick, "train.steps=6"])
    whole = train(resolved, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    run.update_record(status="running", validation=None)
    (run.checkpoints / "best.json").unlink()
    again = train(resume_recipe(run.path, None, {}, []), run.path, resume=True)
    assert (again.status, again.step) == ("finished", 6)
    assert again.validation.nats_per_token == whole.validation.nats_per_token
    assert run.read_record().status == "finished"
    assert CheckpointStore(run.checkpoints).best() == "step-00000006"


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 50 kB: every checkpoint hits it, as it would a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path: Path, quick, request) -> None:
    class Fill(Silent):
        def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
            if step == 6:
                request.getfixturevalue("small_files")

    resolved = resolve("tiny", overrides=[*quick, "train.steps=12", "train.checkpoint_every=5", "train.log_every=1"])
    with pytest.raises(RunError, match=r"step-00000010 could not be written .*: File too large.* step-00000005 is int"):
        train(resolved, tmp_path / "run", reporter=Fill())
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    assert store.load("last").step == 5
    assert [p.name for p in store.folder.iterdir()] == ["step-00000005"]
    assert RunDirectory(tmp_path / "run").read_record().status == "failed"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_metrics_that_cannot_be_written_stop_the_run(tmp_path: Path, quick) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"

    class Fill(Silent):
        def step(self, step: int, total: int, metrics_row: dict[str, float]) -> None:
            if step == 10:
                metrics.rename(tmp_path / "kept")
                metrics.symlink_to("/dev/full")  # looks empty, and has no room

    resolved = resolve("tiny", overrides=[*quick, "train.steps=20", "train.checkpoint_every=8", "train.log_every=5"])
    with pytest.raises(
        RunError, match=r"metrics\.jsonl could not be written: No space left on device\. The last check"
    ):
        train(resolved, tmp_path / "run", reporter=Fill())
    metrics.unlink()
    (tmp_path / "kept").rename(metrics)
    assert train(resume_recipe(tmp_path / "run", None, {}, []), tmp_path / "run", resume=True).step == 20
    assert [json.loads(row)["step"] for row in metrics.open()] == [1, 5, 10, 15, 20, 20]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk(cli, tmp_path: Path, quick) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        more = ("train.steps=30", "train.checkpoint_every=5", "train.keep_checkpoints=9", "train.log_every=1")
        settings = [f for item in (*quick, *more) for f in ("--set", item)]
        outcome = cli("train", "--out", disk / "run", *settings)
        print(outcome.err)
        assert outcome.code == 1
        assert "could not be written" in outcome.err
        assert "No space left on device. step-00000010 is intact; free some space and resume." in outcome.err
        assert "Traceback" not in outcome.err
        assert CheckpointStore(disk / "run" / "checkpoints").load("last").step == 10
        subprocess.run(["mount", "-o", "remount,size=90m", str(disk)], check=True)
        assert cli("train", "--resume", "--out", disk / "run", "--json").json["step"] == 30
    finally:
        time.sleep(0.1)
        subprocess.run(["umount", str(disk)], check=True)
