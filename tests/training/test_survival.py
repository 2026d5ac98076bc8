"""Runs that are killed at random moments and resumed end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import pair

from bd3cli.model.state import weights_sha256
from bd3cli.runs.checkpoints import CheckpointStore

KILLS = int(os.environ.get("KILLS", "30"))
SETTINGS = (
    "train.checkpoint_every=5", "train.validate_every=40", "train.log_every=1", "train.warmup=1",
    "model.dropout=0.1", "train.micro_batch_size=8", "objective.masking=adaptive", "train.steps=400",
)  # fmt: skip

pytestmark = pytest.mark.slow


def flags(*overrides: str) -> list[str]:
    return [f for item in overrides for f in ("--set", item)]


def metrics(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def count_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def last(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    store = CheckpointStore(run / "checkpoints")
    folder = store.folder / store.names()[-1]
    return {name: load_file(folder / name) for name in ("model.safetensors", "ema.safetensors")}


def uninterrupted(folder: Path, settings: list[str], processes: int) -> float:
    """Train ``whole`` without a kill; the longest time to wait before one, so that a run outlives them all."""
    started, begin = pair.start(folder, ["train", "--out", folder / "whole", *settings], processes=processes), None
    while any(p.is_alive() for p in started):
        if begin is None and count_lines(folder / "whole"):
            begin = time.monotonic()
        time.sleep(0.02)
    outcome = pair.finish(folder, started)
    assert outcome.codes == [0] * processes, outcome.err
    assert begin is not None
    return (time.monotonic() - begin) / KILLS


def killed_until_finished(folder: Path, run: Path, settings: list[str], processes: int, patience: float) -> list[int]:
    """Start, kill after a random while, resume, `KILLS` times; then let it finish. The steps it was resumed from."""
    chance, kills = random.Random(0), 0
    while True:
        again = (run / "run.json").exists()
        arguments = ["train", "--resume", "--out", run] if again else ["train", "--out", run, *settings]
        if not again and run.exists():
            (run / "recipe.toml").unlink(missing_ok=True)
            run.rmdir()
        started = pair.start(folder, arguments, processes=processes)
        if kills == KILLS:
            outcome = pair.finish(folder, started, timeout=600)
            assert outcome.codes == [0] * processes, outcome.err
            break
        if chance.random() < 0.8:  # most of them while it trains, the others as it starts
            lines = count_lines(run)
            while count_lines(run) <= lines and started[0].is_alive():
                time.sleep(0.02)
        time.sleep(chance.uniform(0, patience))
        victims = chance.sample(started, chance.randint(1, processes))
        assert all(p.is_alive() for p in victims), "it ended before it could be killed: give it more steps"
        for process in victims:
            os.kill(process.pid, signal.SIGKILL)
        for process in set(started) - set(victims):  # torchrun ends the others; one may be waiting for its peer
            process.join(20)
            process.kill()
        outcome = pair.finish(folder, started)
        assert not any("Traceback" in text for text in outcome.err), outcome.err
        kills += 1
    return [resumed["step"] for resumed in json.loads((run / "run.json").read_text())["resumes"]]


@pytest.mark.timeout(1800)
def test_thirty_kills_leave_no_trace(tmp_path: Path, quick) -> None:
    settings = flags(*quick, *SETTINGS)
    patience = uninterrupted(tmp_path, settings, 1)
    steps = killed_until_finished(tmp_path, tmp_path / "killed", settings, 1, patience)
    print(f"\n{KILLS} kills; resumed from steps {steps}")
    for name, tensors in last(tmp_path / "whole").items():
        ours, theirs = weights_sha256(last(tmp_path / "killed")[name]), weights_sha256(tensors)
        print(f"{name}: sha256 {theirs} uninterrupted\n{'':{len(name)}}         {ours} killed and resumed")
        assert ours == theirs
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    names = [CheckpointStore(tmp_path / run / "checkpoints").best() for run in ("killed", "whole")]
    assert names[0] == names[1]
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*")), "nothing half written is left"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_kills_of_two_processes_leave_no_trace(tmp_path: Path, quick, parallel: str) -> None:
    settings = flags(*quick, *SETTINGS, f"train.parallel={parallel}")
    patience = uninterrupted(tmp_path, settings, 2)
    steps = killed_until_finished(tmp_path, tmp_path / "killed", settings, 2, patience)
    print(f"\n{KILLS} kills; resumed from steps {steps}")
    for name, tensors in last(tmp_path / "whole").items():
        ours = last(tmp_path / "killed")[name]
        worst = max((ours[key] - value).abs().max().item() for key, value in tensors.items())
        print(f"{parallel} {name}: largest difference {worst:.3g}")
        assert worst < 1e-6
