"""Two processes over gloo against one: the same losses, the same files, one voice."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import pair

from bd3cli.errors import InputError
from bd3cli.recipes.resolve import resolve
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.training.distributed import Group, choose_parallel, joined
from bd3cli.training.loop import step_data, train
from bd3cli.training.reporter import Silent
from bd3cli.training.trainer import prepare, refuse_unshareable

STEPS = ("train.steps=8", "train.log_every=1", "train.validate_every=4", "train.validate_sequences=33",
         "train.learning_rate=3e-4", "train.warmup=0")  # fmt: skip


def flags(*overrides: str) -> list[str]:
    return [f for item in overrides for f in ("--set", item)]


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    store = CheckpointStore(run / "checkpoints")
    return load_file(store.folder / store.names()[-1] / name)


def assert_alike(run: Path, other: Path, tolerance: float) -> None:
    ours, theirs = rows(run), rows(other)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        if "loss" in row:
            assert row["loss"] == pytest.approx(expected["loss"], abs=tolerance)
            assert row["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
        else:
            assert row["validation"]["nats_per_token"] == pytest.approx(
                expected["validation"]["nats_per_token"], abs=tolerance
            )
            for key in ("tokens", "sequences"):
                assert row["validation"][key] == expected["validation"][key]
    for name in ("model.safetensors", "ema.safetensors"):
        for key, value in weights(other, name).items():
            torch.testing.assert_close(weights(run, name)[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("parallel", "more"),
    [
        ("ddp", ("train.micro_batch_size=3",)),
        pytest.param("fsdp", (), marks=pytest.mark.slow),
        pytest.param("fsdp", ("train.micro_batch_size=3",), marks=pytest.mark.slow),
    ],
    ids=["ddp-accumulating", "fsdp", "fsdp-accumulating"],
)
def test_two_processes_train_what_one_trains(tmp_path: Path, quick, parallel: str, more) -> None:
    settings = [*quick, *STEPS, "train.batch_size=12"]
    train(resolve("tiny", overrides=settings), tmp_path / "one")
    both = pair.run(
        tmp_path, "train", "--out", tmp_path / "two", "--json", *flags(*settings, *more, f"train.parallel={parallel}")
    )
    assert both.codes == [0, 0], both.err
    assert json.loads(both.out[0])["step"] == 8
    assert (both.out[1], both.err[1]) == ("", "")
    assert "Warning" not in both.err[0]
    assert_alike(tmp_path / "two", tmp_path / "one", 1e-5)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == {"number": 2, "parallel": parallel}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("masking", ("objective.masking=adaptive:refresh=2,memory=5",)),
        ("clip_search", ("objective.clip_search=search", "objective.clip_step=0.5", "objective.clip_batches=2")),
    ],
)
def test_two_processes_learn_what_one_learns(tmp_path: Path, quick, kind: str, more) -> None:
    settings = [*quick, *STEPS, "train.batch_size=12", "train.micro_batch_size=3", *more]
    train(resolve("tiny", overrides=settings), tmp_path / "one")
    both = pair.run(tmp_path, "train", "--out", tmp_path / "two", "--json", *flags(*settings))
    assert both.codes == [0, 0], both.err
    one, two = ([row for row in rows(tmp_path / name) if "validation" in row] for name in ("one", "two"))
    assert [row["masked_tokens"] for row in two] == [row["masked_tokens"] for row in one]
    for ours, theirs in zip(two, one, strict=True):
        if kind == "masking":
            assert ours[kind]["q"] == pytest.approx(theirs[kind]["q"], abs=1e-5)
            assert len(set(ours[kind]["q"])) > 1
        else:
            assert ours[kind][0]["clip"] == theirs[kind][0]["clip"]
            tried = [[t["var_nelbo"] for t in row[kind][0]["tried"]] for row in (ours, theirs)]
            assert tried[0] == pytest.approx(tried[1], rel=1e-4)
    assert_alike(tmp_path / "two", tmp_path / "one", 1e-4)


@pytest.mark.slow
def test_a_checkpoint_goes_from_one_process_to_two_and_back(tmp_path: Path, quick) -> None:
    settings = [*quick, *STEPS]
    train(resolve("tiny", overrides=[*settings, "train.steps=12"]), tmp_path / "one")
    run = tmp_path / "run"
    first = [*settings, "train.steps=12", "train.checkpoint_every=4"]
    train(resolve("tiny", overrides=first), run, reporter=KillAt(4))
    for steps, parallel in (("8", "fsdp"), ("12", "auto")):
        more = flags(f"train.steps={steps}", f"train.parallel={parallel}")
        both = pair.run(tmp_path, "train", "--resume", "--out", run, *more)
        assert both.codes == [0, 0], both.err
    assert_alike(run, tmp_path / "one", 1e-5)


class KillAt(Silent):
    """Stops this process's run after a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path: Path, quick, rank: int) -> None:
    run = tmp_path / "run"
    settings = flags(*quick, "train.steps=100000", "train.log_every=1")
    processes = pair.start(tmp_path, ["train", "--out", run, *settings])
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 100
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(processes[rank].pid, signal.SIGTERM)
    both = pair.finish(tmp_path, processes)
    assert both.codes == [143, 143], both.err
    step = json.loads((run / "run.json").read_text())["step"]
    assert CheckpointStore(run / "checkpoints").load("last").step == step == rows(run)[-1]["step"]
    assert f"interrupted at step {step}; a checkpoint is saved" in both.err[0]
    assert both.err[1] == ""


@pytest.mark.parametrize(
    "kind",
    ["mistake", pytest.param("crash", marks=pytest.mark.slow), pytest.param("killed", marks=pytest.mark.slow)],
)
def test_what_ends_one_process_ends_both_and_is_told_once(tmp_path: Path, quick, kind: str) -> None:
    settings = flags(*quick, "train.steps=100000", *(["train.batch_size=15"] if kind == "mistake" else []))
    hook = {"mistake": None, "crash": _crash, "killed": _die}[kind]
    both = pair.run(tmp_path, "train", "--out", tmp_path / "run", *settings, hook=hook)
    told = [line for text in both.err for line in text.splitlines() if "error:" in line]
    assert len(told) == 1, both.err
    assert all(code != 0 for code in both.codes)
    assert not any("Traceback" in text for text in both.err), both.err
    expected = {"mistake": "cannot be shared evenly by 2", "crash": "MemoryError: no more", "killed": "is gone"}[kind]
    assert expected in told[0]


def _at_third_step(act) -> None:
    from bd3cli.training.guards import Guard

    plain, seen = Guard.note, []

    def note(self, *arguments):
        seen.append(1)
        if len(seen) == 3:
            act()
        plain(self, *arguments)

    Guard.note = note  # type: ignore[method-assign]


def _crash(rank: int) -> None:
    def act() -> None:
        raise MemoryError("no more")

    if rank == 1:
        _at_third_step(act)


def _die(rank: int) -> None:
    if rank == 1:
        _at_third_step(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_processes_share_a_batch_without_overlap(quick) -> None:
    trainer = prepare(resolve("tiny", overrides=[*quick, "train.batch_size=12"]).recipe, Silent())
    whole = step_data(trainer, 3)
    trainer.group = Group(1, 3)
    part = step_data(trainer, 3)
    assert part.indices == whole.indices
    assert part.predicted == whole.predicted
    assert torch.equal(part.batches[0].x_t, whole.batches[0].x_t[4:8])
    assert [Group(r, 3).rows(12) for r in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]


def test_a_single_process_needs_no_group(monkeypatch, quick) -> None:
    with joined() as group:
        assert group == Group()
    assert not torch.distributed.is_initialized()
    assert (group.largest(3), group.gather("x"), group.from_leader("x")) == (3, ["x"], "x")
    assert choose_parallel("auto", group) == "none"
    with pytest.raises(InputError, match="this is a single process"):
        choose_parallel("fsdp", group)
    with pytest.raises(InputError, match=r"train\.compile does not work with train\.parallel 'fsdp'"):
        refuse_unshareable(resolve("tiny", overrides=["train.compile=true", "train.parallel=fsdp"]).recipe, Group(0, 2))
    recipe = resolve("tiny", overrides=[*quick, "train.batch_size=10"]).recipe
    with pytest.raises(InputError, match="batch_size 10 cannot be shared evenly by 4 processes"):
        refuse_unshareable(recipe, Group(0, 4))
