"""Whatever comes in, one message goes out: generated recipes, data files and checkpoints."""

from __future__ import annotations

import json
import random
import shutil
from itertools import islice
from pathlib import Path

import pytest
from support import fuzzing

from bd3cli.model.state import weights_sha256
from bd3cli.runs.checkpoints import CheckpointStore


def cases(number: int, folder: Path, run: Path) -> list[fuzzing.Case]:
    """`number` of each sort, always the same ones."""
    made: list[fuzzing.Case] = []
    for name in ("recipes", "data_files", "checkpoints"):
        (folder / name).mkdir()
        more = (run,) if name == "checkpoints" else ()
        made += islice(getattr(fuzzing, name)(random.Random(0), folder / name, *more), number)
    return made


def complaints(cli, folder: Path, run: Path, number: int) -> tuple[list[str], dict[int, int]]:
    """What was not one message and exit code 1 or 2; and how often there was which code."""
    wrong, codes = [], {1: 0, 2: 0}
    for label, arguments in cases(number, folder, run):
        outcome = cli(*arguments)
        told = outcome.err.count("error:") + outcome.err.count("Error ─")
        codes[outcome.code] = codes.get(outcome.code, 0) + 1
        clean = "Traceback" not in outcome.err and "defect in bd3cli" not in outcome.err and outcome.out == ""
        if outcome.code not in (1, 2) or told != 1 or not clean or len(outcome.err) > 1500:
            wrong.append(f"{label}: exit {outcome.code}: {arguments}\n{outcome.out[:300]}{outcome.err[-600:]}")
    return wrong, codes


def test_generated_input_gets_one_message(cli, tmp_path: Path, trained: Path) -> None:
    wrong, _ = complaints(cli, tmp_path, trained, 14)
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "checkpoints" / "bomb").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hundred_generated_inputs_get_one_message_each(cli, tmp_path: Path, trained: Path) -> None:
    wrong, codes = complaints(cli, tmp_path, trained, 100)
    print(f"\n300 inputs; exit codes {codes}; {len(wrong)} with something else than one message")
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "checkpoints" / "bomb").exists(), "something was executed"


TEN = ("flipped", "truncated", "missing", "shape", "extra tensor", "missing tensor", "pickle bomb", "pickled weights",
       "header", "optimizer shape")  # fmt: skip


@pytest.mark.parametrize("kind", TEN)
def test_a_damaged_newest_checkpoint_is_passed_over(cli, tmp_path: Path, two_checkpoints: Path, kind: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_checkpoints, run)
    whole = weights_sha256(CheckpointStore(run / "checkpoints").load("last").weights())
    fuzzing.damage(kind, random.Random(1), run, tmp_path / "bomb")
    outcome = cli("train", "--resume", "--out", run, "--json")
    print(outcome.err)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("Passed over a checkpoint:") == 1
    assert "step-00000008" in outcome.err
    assert "defect" not in outcome.err
    assert not (tmp_path / "bomb").exists(), "something was executed"
    assert weights_sha256(CheckpointStore(run / "checkpoints").load("last").weights()) == whole


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory, quick: tuple[str, ...]) -> Path:
    """A run that was about to finish: checkpoints of steps 6 and 8."""
    from bd3cli.recipes.resolve import resolve
    from bd3cli.runs.directory import RunDirectory
    from bd3cli.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "two"
    small = ("model.hidden_size=32", "train.validate_sequences=4", "train.checkpoint_every=2", "train.steps=8")
    train(resolve("tiny", overrides=[*quick, *small]), folder)
    RunDirectory(folder).update_record(status="interrupted")
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    return folder
