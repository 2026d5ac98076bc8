"""A run that is given more steps: the run it would have been at once, or a word on why it is not."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bd3cli.errors import InputError
from bd3cli.model.state import weights_sha256
from bd3cli.recipes.resolve import resolve
from bd3cli.runs import read_recipe
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory
from bd3cli.training.finetune import finetune_recipe
from bd3cli.training.loop import step_data, train
from bd3cli.training.reporter import Silent
from bd3cli.training.resume import resume_recipe
from bd3cli.training.trainer import prepare

MOVING = "objective.schedule=bimodal-gaussian:mu2=0.85,mu2_start=0.4"


class Listen(Silent):
    """Keeps the notices; interrupts the run at a step, if one is given."""

    def __init__(self, stop: int | None = None) -> None:
        self.notices: list[str] = []
        self.stop = stop

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        if step == self.stop:
            os.kill(os.getpid(), signal.SIGINT)


def begin(run: Path, settings: tuple[str, ...]) -> Path:
    train(resolve("tiny", overrides=list(settings)), run)
    return run


def extend(run: Path, *overrides: str, stop: int | None = None) -> list[str]:
    """Resume a run with other settings; the notices."""
    listen = Listen(stop)
    train(resume_recipe(run, None, {}, overrides), run, resume=True, reporter=listen)
    return [text for text in listen.notices if "is longer than a tenth" not in text]


def last(run: Path, name: str) -> dict[str, torch.Tensor]:
    store = CheckpointStore(run / "checkpoints")
    return load_file(store.folder / store.names()[-1] / name)


def losses(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows if "loss" in row]


@pytest.mark.parametrize(
    "settings",
    [
        ("train.warmup=0",),
        ("train.warmup=2", "train.horizon=20", "model.dropout=0.1", "train.micro_batch_size=4"),
        ("train.warmup=1", "objective.masking=adaptive:refresh=3,memory=5"),
        ("train.warmup=1", "objective.clip_search=search", "objective.clip_step=0.25", "objective.clip_batches=2"),
        ("train.warmup=1", "objective.family=mdlm", "objective.schedule=cosine"),
        ("train.warmup=1", "objective.family=ar", "objective.random_batch=true"),
        ("train.horizon=20", MOVING),  # the default warmup too, which is a tenth
    ],
)
def test_ten_steps_and_ten_more_are_twenty_bit_for_bit(tmp_path: Path, quick, settings: tuple[str, ...]) -> None:
    cadence = ("train.validate_every=4", "train.checkpoint_every=7", "train.log_every=1")
    common = (*quick, *cadence, "train.batch_size=8", "train.validate_sequences=4", *settings)
    begin(tmp_path / "whole", (*common, "train.steps=20"))
    begin(tmp_path / "parts", (*common, "train.steps=10"))
    assert extend(tmp_path / "parts", "train.steps=20") == []
    for name in ("model.safetensors", "ema.safetensors"):
        assert weights_sha256(last(tmp_path / "parts", name)) == weights_sha256(last(tmp_path / "whole", name))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_the_warmup_is_over_when_a_run_is_extended(tmp_path: Path, quick) -> None:
    run = begin(tmp_path / "run", (*quick, "train.steps=10", "train.log_every=1"))
    notices = extend(run, "train.steps=200", stop=12)
    assert notices == [
        "not the same as 200 steps from the start: its warmup of 1 was measured by 10 steps, a tenth at most; "
        "a run of 200 would have warmed up for 20."
    ]
    assert [row["learning_rate"] for row in losses(run)] == [0.003] * 12
    assert RunDirectory(run).read_record().horizon == 10
    assert (read_recipe(run).train.steps, read_recipe(run).train.horizon) == (200, 10)
    # what is left of it is taken up without a word, and without its steps being named again
    assert extend(run, stop=14) == []
    assert losses(run)[-1] == losses(run)[-1] | {"step": 14, "learning_rate": 0.003}


def test_a_schedule_that_moves_stays_where_it_ended(tmp_path: Path, quick) -> None:
    settings = (*quick, MOVING, "train.warmup=0", "train.batch_size=4", "train.validate_sequences=4")
    run = begin(tmp_path / "run", (*settings, "train.steps=4"))
    notices = extend(run, "train.steps=8")
    assert notices == [
        "not the same as 8 steps from the start: the schedule bimodal-gaussian:mu2=0.85,mu2_start=0.4 moves with the "
        "share of steps done, whose end stays at step 4, and is used from there on as it ended."
    ]
    recipe = resume_recipe(run, None, {}, ["train.steps=16"]).recipe
    ours = prepare(recipe, Silent())
    ended_at = 0.85 - (0.85 - 0.4) * math.exp(-3)
    short = prepare(resolve("tiny", overrides=[*settings, "train.steps=4"]).recipe, Silent())
    still = [*settings, f"objective.schedule=bimodal-gaussian:mu2={ended_at!r}"]
    ended = prepare(resolve("tiny", overrides=still).recipe, Silent())
    for step in (0, 1, 3):
        assert torch.equal(step_data(ours, step).batches[0].weight, step_data(short, step).batches[0].weight)
    for step in (4, 7, 15):
        torch.testing.assert_close(step_data(ours, step).batches[0].weight, step_data(ended, step).batches[0].weight)


def test_fewer_steps_keep_the_pace_too(tmp_path: Path, quick) -> None:
    settings = (*quick, MOVING, "train.steps=60", "train.batch_size=4", "train.validate_sequences=4")
    train(resolve("tiny", overrides=[*settings, "train.log_every=1"]), tmp_path / "run", reporter=Listen(stop=3))
    (notice,) = extend(tmp_path / "run", "train.steps=5")
    assert "its warmup of 6 was measured by 60 steps, a tenth at most; a run of 5 would have warmed up" in notice
    assert notice.endswith("whose end stays at step 60, which is not reached.")
    rates = [row["learning_rate"] for row in losses(tmp_path / "run")]  # of the step that comes next
    assert rates == pytest.approx([0.003 * n / 6 for n in range(2, 7)])


def test_the_horizon_is_not_for_changing(tmp_path: Path, quick) -> None:
    run = begin(tmp_path / "run", (*quick, "train.steps=2", "train.batch_size=4", "train.validate_sequences=4"))
    with pytest.raises(InputError, match=r"train.horizon \(2 -> 9\)"):
        resume_recipe(run, None, {}, ["train.steps=9", "train.horizon=9"])
    assert resume_recipe(run, None, {}, ["train.horizon=2"]).recipe == read_recipe(run)
    with pytest.raises(InputError, match=r"measured by 2 steps, those of the recipe by 9\. Set train.horizon to 2"):
        train(resolve("tiny", overrides=[*quick, "train.steps=9"]), run, resume=True)
    assert read_recipe(run).train.steps == 2
    extend(run, "train.steps=4")
    child = finetune_recipe(run, None, {}, ())
    assert (child.recipe.train.steps, child.recipe.horizon, child.sources["train.horizon"]) == (4, 4, "default")
    with pytest.raises(InputError, match=r"train\.horizon must be at least 1, not 0"):
        resolve("tiny", overrides=["train.horizon=0"])


def test_validations_that_search_the_clip_stay_where_they_are(tmp_path: Path, quick) -> None:
    settings = (*quick, "train.steps=2", "train.batch_size=4", "train.validate_sequences=4")
    search = ("objective.clip_search=search", "objective.clip_step=0.5", "objective.clip_batches=1")
    run = begin(tmp_path / "fixed", settings)
    assert resume_recipe(run, None, {}, ["train.validate_every=3"]).recipe.train.validate_every == 3
    run = begin(tmp_path / "search", (*settings, *search))
    with pytest.raises(InputError, match=r"train.validate_every \(250 -> 3\)\. The clip is searched for"):
        resume_recipe(run, None, {}, ["train.validate_every=3"])


@pytest.mark.parametrize("micro", ["1", "4", "none"])
def test_the_micro_batch_may_change(tmp_path: Path, quick, micro: str) -> None:
    """The masks are the whole batch's; only the order of sums differs."""
    settings = (*quick, "train.learning_rate=0.0003", "train.warmup=0", "train.log_every=1", "train.ema=0")
    settings = (*settings, "model.dropout=0", "train.micro_batch_size=8")
    begin(tmp_path / "whole", (*settings, "train.steps=12"))
    run = begin(tmp_path / "parts", (*settings, "train.steps=6"))
    assert extend(run, "train.steps=12", f"train.micro_batch_size={micro}") == []
    assert read_recipe(run).train.micro_batch_size == (None if micro == "none" else int(micro))
    for key in ("loss", "gradient_norm", "masked_tokens"):
        ours, theirs = ([row[key] for row in losses(r)] for r in (run, tmp_path / "whole"))
        assert ours == pytest.approx(theirs, rel=1e-4)
    for name, value in last(tmp_path / "whole", "model.safetensors").items():
        torch.testing.assert_close(last(run, "model.safetensors")[name], value, atol=1e-4, rtol=0)


def test_dropout_under_another_micro_batch_is_said_to_differ(tmp_path: Path, quick) -> None:
    settings = (*quick, "train.steps=2", "train.validate_sequences=4", "model.dropout=0.1")
    run = begin(tmp_path / "run", settings)
    assert extend(run, "train.steps=3", "train.micro_batch_size=16") == []  # the batch itself
    (notice,) = extend(run, "train.steps=4", "train.micro_batch_size=4")
    assert notice.startswith(
        "train.micro_batch_size: forward passes of 4 sequences draw other dropout masks than those"
    )
    with pytest.raises(InputError, match=r"train\.micro_batch_size 5 does not divide"):
        resume_recipe(run, None, {}, ["train.micro_batch_size=5"])
