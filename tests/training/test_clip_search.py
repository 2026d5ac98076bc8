"""Clips: fixed ones stay, searched ones are chosen sensibly, recorded and taken up again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bd3cli.errors import InputError
from bd3cli.evaluation.clip_search import Tried, least
from bd3cli.evaluation.variance import Spread
from bd3cli.model.state import weights_sha256
from bd3cli.recipes.clips import clip_grid
from bd3cli.recipes.resolve import resolve
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory
from bd3cli.training.loop import step_data, train
from bd3cli.training.reporter import Silent
from bd3cli.training.resume import resume_recipe
from bd3cli.training.trainer import prepare

SEARCH = ("objective.clip_search=search", "objective.clip_step=0.25", "objective.clip_batches=2")


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_grid_is_every_interval_of_a_width() -> None:
    assert clip_grid("0.5", 0.1) == [(0.0, 0.5), (0.1, 0.6), (0.2, 0.7), (0.3, 0.8), (0.4, 0.9), (0.5, 1.0)]
    assert clip_grid("0.3,1", 0.35) == [(0.0, 0.3), (0.35, 0.65), (0.7, 1.0), (0.0, 1.0)]
    assert len(clip_grid("0.5", 0.05)) == 11


@pytest.mark.parametrize("widths", ["", "0", "1.5", "0.5;0.3", "nan"])
def test_widths_that_make_no_grid_are_refused(widths: str) -> None:
    with pytest.raises(InputError, match="Clip widths must be numbers"):
        clip_grid(widths, 0.1)
    with pytest.raises(InputError, match="step must lie"):
        clip_grid("0.5", 0)
    with pytest.raises(InputError, match="more than 200 intervals"):
        clip_grid("0.5", 1e-4)


def test_the_least_variance_wins() -> None:
    tried = [Tried((0.0, 0.5), spread(3.0)), Tried((0.2, 0.7), spread(1.0)), Tried((0.4, 0.9), spread(1.0))]
    assert least(tried).clip == (0.2, 0.7)


def spread(value: float) -> Spread:
    import numpy as np

    return Spread(np.array([value, value]), np.array([1.0, 1.0]))


def test_a_search_chooses_records_and_is_used(tmp_path: Path, quick: tuple[str, ...]) -> None:
    settings = [*quick, *SEARCH, "train.steps=12", "train.validate_every=4"]
    train(resolve("tiny", overrides=settings), tmp_path / "run")
    record = RunDirectory(tmp_path / "run").read_record()
    assert record.recipe["objective.masking"] == "bernoulli"
    assert record.sources["objective.masking"] == "implied by objective.clip_search"
    history = record.progress.clip_search
    assert [(h["step"], h["from_step"]) for h in history] == [(4, 5), (8, 9), (12, 13)]
    for entry in history:
        assert [t["clip"] for t in entry["tried"]] == [[0.0, 0.5], [0.25, 0.75], [0.5, 1.0]]
        best = min(entry["tried"], key=lambda t: t["var_nelbo"])
        assert entry["clip"] == best["clip"]
        # weights 1/t make low times by far the noisiest
        assert entry["tried"][0]["var_nelbo"] > 2 * best["var_nelbo"]
        assert entry["clip"] != [0.0, 0.5]
    validations = [row for row in rows(tmp_path / "run") if "validation" in row]
    assert [row["clip_search"] for row in validations] == [[h] for h in history]
    # the last step before a validation drew from what the one before it chose
    assert [row["clip"] for row in validations] == [None, history[0]["clip"], history[1]["clip"]]


def test_steps_draw_from_the_chosen_interval(quick: tuple[str, ...]) -> None:
    trainer = prepare(resolve("tiny", overrides=[*quick, *SEARCH]).recipe, Silent())
    assert trainer.search is not None
    assert times(trainer, 7)[0] < 0.25
    trainer.search.choose(7, [Tried((0.5, 1.0), spread(1.0))])
    assert times(trainer, 7)[0] < 0.25  # prepared while the validation ran
    low, high = times(trainer, 8)
    assert 0.5 <= low < 0.55
    assert 0.95 < high <= 1


def times(trainer: Any, step: int) -> tuple[float, float]:
    """Smallest and largest time of a step, from the weights 1/t of its masked tokens."""
    weight = torch.cat([batch.weight for batch in step_data(trainer, step).batches])
    return float(1 / weight.max()), float(1 / weight.min())


def test_a_resumed_search_goes_on_alike(tmp_path: Path, quick: tuple[str, ...]) -> None:
    settings = [*quick, *SEARCH, "train.steps=10", "train.validate_every=3", "train.checkpoint_every=4"]
    settings += ["train.keep_checkpoints=9", "train.ema=0"]
    train(resolve("tiny", overrides=settings), tmp_path / "full")
    for stop in ("step-00000004", "step-00000006"):  # between validations, and right after one
        part = tmp_path / stop
        shutil.copytree(tmp_path / "full", part)
        for name in CheckpointStore(part / "checkpoints").names():
            if name > stop:
                shutil.rmtree(part / "checkpoints" / name)
        train(resume_recipe(part, None, {}, ["train.steps=10"]), part, resume=True)
        histories = [RunDirectory(run).read_record().progress for run in (part, tmp_path / "full")]
        assert histories[0] == histories[1]
        assert len(histories[0].clip_search) == 3
        weights = [load_file(run / "checkpoints" / "step-00000010" / "model.safetensors") for run in
                   (part, tmp_path / "full")]  # fmt: skip
        assert weights_sha256(weights[0]) == weights_sha256(weights[1])


def test_a_fixed_clip_is_there_at_the_last_step(tmp_path: Path, quick: tuple[str, ...]) -> None:
    """Validations, checkpoints and a resume leave it alone: no step of the run has other times."""
    settings = [*quick, "objective.clip=0.45,0.95", "train.steps=9", "train.validate_every=2"]
    train(resolve("tiny", overrides=settings), tmp_path / "run")
    validations = [row for row in rows(tmp_path / "run") if "validation" in row]
    assert [row["clip"] for row in validations] == [[0.45, 0.95]] * 5
    assert all("clip_search" not in row for row in validations)
    recipe = resume_recipe(tmp_path / "run", None, {"train.steps": (12, "--steps")}, [])
    train(recipe, tmp_path / "run", resume=True)
    record = RunDirectory(tmp_path / "run").read_record()
    assert record.progress.clip == (0.45, 0.95)
    trainer = prepare(recipe.recipe, Silent())
    assert trainer.search is None
    for step in (0, 8, 11):
        low, high = times(trainer, step)
        assert low >= 0.45
        assert high <= 0.95


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (("objective.clip_widths=0.3",), "clip_widths has no effect while the clip is fixed"),
        ((*SEARCH, "objective.masking=count"), "clip_search 'search' has no effect with masking 'count'"),
        ((*SEARCH, "objective.family=ar"), "has no effect on family 'ar'"),
        ((*SEARCH, "objective.clip_widths=2"), "Clip widths must be numbers"),
        (("objective.clip_search=serach",), "cannot be 'serach'"),
    ],
)
def test_settings_that_do_nothing_are_refused(quick: tuple[str, ...], settings: tuple[str, ...], error: str) -> None:
    with pytest.raises(InputError, match=error):
        prepare(resolve("tiny", overrides=[*quick, *settings]).recipe, Silent())


def test_the_offline_search(cli: Any, trained: Path, trained_ar: Path) -> None:
    document = cli("schedules", "search", trained, "--step", 0.25, "--batches", 2, "--json").json
    assert [t["clip"] for t in document["tried"]] == [[0.0, 0.5], [0.25, 0.75], [0.5, 1.0]]
    assert document["best"] == min(document["tried"], key=lambda t: t["var_nelbo"])
    assert (document["schedule"], document["block_size"], document["batches"]) == ("loglinear", 4, 2)
    text = cli("schedules", "search", trained, "--widths", "0.3", "--step", 0.35, "--batches", 2, "--block-size", 8)
    assert "Least variance: --clip " in text.out
    assert "with loglinear at block size 8" in text.out
    for path, more, error in (
        (trained, ("--block-size", 5), "does not divide"),
        (trained, ("--schedule", "full"), "block size 1 only"),
        (trained_ar, (), "masks nothing"),
    ):
        refused = cli("schedules", "search", path, "--batches", 2, *more)
        assert refused.code == 2
        assert error in refused.err
