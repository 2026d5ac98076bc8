"""Training does not begin under a schedule, weight or masking that breaks a law, unless it is told to."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from bd3cli.errors import InputError
from bd3cli.plugins import load_plugins
from bd3cli.recipes.resolve import resolve
from bd3cli.recipes.settings import ObjectiveConfig
from bd3cli.schedules import get_schedule
from bd3cli.testing import check_schedule
from bd3cli.testing import training as before
from bd3cli.testing.masking import QUICK, check_masking
from bd3cli.training.loop import train
from bd3cli.training.reporter import Silent
from bd3cli.training.resume import resume_recipe

HEADER = """
from dataclasses import dataclass, replace
import torch
from bd3cli import hookimpl
from bd3cli.schedules import NoiseSchedule
from bd3cli.weights import LossWeight
from bd3cli.maskings import MaskDraw, Masking, get_masking
@dataclass(frozen=True)
"""
HOOK = "\n@hookimpl\ndef register_{}(register):\n    register('bad', X)\n"
SCHEDULE = HEADER + "class X(NoiseSchedule):\n    {}" + HOOK.format("noise_schedules")
WEIGHT = HEADER + "class X(LossWeight):\n    {}" + HOOK.format("loss_weights")
MASKING = HEADER + "class X(Masking):\n    {}" + HOOK.format("maskings")
P = "def mask_prob(self, t): return "
W = "def weight(self, alpha, slope): return "
DRAW = """def draw(self, noise, context):
        d = get_masking('count').draw(noise, context)
        return MaskDraw({}, replace(d.noise, {}))"""
MOVES = """
    floor_now: float = 0.0
    def mask_prob(self, t):
        return t * (1 - self.floor_now)
    def at_progress(self, fraction):
        return replace(self, floor_now=0.1 if {} else 0.0)
"""
SMALL = ("train.steps=4", "train.batch_size=4", "train.validate_sequences=8", "train.validate_every=4",
         "model.hidden_size=32", "model.heads=2", "model.blocks=1", "model.cond_dim=8", "model.length=32")  # fmt: skip
SETS = [part for value in SMALL for part in ("--set", value)]


class Listen(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def notice(self, text: str) -> None:
        self.heard.append(text)


@pytest.mark.parametrize(
    ("kind", "source", "law"),
    [
        ("schedule", SCHEDULE.format(P + "0.9 * t"), "endpoints"),
        ("schedule", SCHEDULE.format(P + "0.1 + 0.9 * t"), "endpoints"),
        ("schedule", SCHEDULE.format(P + "t + 0.2 * torch.sin(2 * math.pi * t)"), "range"),
        ("schedule", SCHEDULE.format(P + "torch.where(t > 0.5, t, 0.5 * t)"), "invariance"),
        ("schedule", SCHEDULE.format(P + "t\n    def rate(self, t): return 2 * t"), "derivative"),
        ("schedule", SCHEDULE.format(P + "t\n    def weight(self, t): return 0.5 / t"), "weight"),
        ("schedule", SCHEDULE.format(P + "t / t.max()"), "derivative"),
        ("schedule", SCHEDULE.format(MOVES.format("fraction == 1")), "endpoints"),
        ("schedule", SCHEDULE.format(MOVES.format("0.3 < fraction < 0.7")), "endpoints"),
        ("weight", WEIGHT.format(W + "alpha / (1 - alpha)"), "finite"),
        ("weight", WEIGHT.format(W + "torch.zeros_like(alpha)"), "positive"),
        ("weight", WEIGHT.format(W + "alpha + 1\n    def scaled(self, noise): return noise.weight"), "product"),
        ("masking", MASKING.format(DRAW.format("d.mask", "weight=0.9 * d.noise.weight")), "unbiased"),
        ("masking", MASKING.format(DRAW.format("torch.ones_like(d.mask)", "")), "given"),
        ("masking", MASKING.format(DRAW.format("d.mask", "weight=d.noise.weight * torch.rand(())")), "pure"),
    ],
)  # fmt: skip
def test_a_broken_law_is_refused_by_name_and_can_be_overruled(
    install, cli, tmp_path: Path, kind: str, source: str, law: str
) -> None:
    install("bd3cli-fake", "fake_bad", source)
    options = (f"--{kind}", "bad", *(("--masking", "bernoulli") if kind == "schedule" else ()), *SETS)
    refused = cli("train", "--out", tmp_path / "run", *options)
    assert refused.code == 2
    assert f"The {kind} 'bad' breaks the law '{law}'" in refused.err
    assert f"bd3cli {kind}s check 'bad'" in refused.err
    assert "--set train.check_laws=false" in refused.err
    assert not (tmp_path / "run").exists()
    checked = cli(f"{kind}s", "check", "bad", "--json")
    assert checked.code == 1
    assert not next(row["ok"] for row in checked.json["laws"] if row["law"] == law)


def test_training_goes_on_where_it_is_told_to_and_says_so(install, cli, tmp_path: Path) -> None:
    install("bd3cli-fake", "fake_bad", SCHEDULE.format(P + "0.9 * t"))
    options = ("--schedule", "bad", "--masking", "bernoulli", *SETS, "--set", "train.check_laws=false")
    done = cli("train", "--out", tmp_path / "run", *options)
    assert done.code == 0, done.err
    assert done.err.count("breaks the law 'endpoints'") == 1
    assert "Training all the same, since train.check_laws is false." in done.err
    assert tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())["train"]["check_laws"] is False


def test_resuming_looks_again_and_may_change_its_mind(install, cli, tmp_path: Path) -> None:
    install("bd3cli-fake", "fake_bad", SCHEDULE.format(P + "0.9 * t"))
    options = ("--schedule", "bad", "--masking", "bernoulli", *SETS, "--set", "train.check_laws=false")
    assert cli("train", "--out", tmp_path / "run", *options).code == 0
    again = ("train", "--resume", "--out", tmp_path / "run", "--steps", 6)
    refused = cli(*again, "--set", "train.check_laws=true")
    assert refused.code == 2
    assert "'endpoints'" in refused.err
    assert cli(*again).code == 0
    assert resume_recipe(tmp_path / "run", None, {}, ["train.check_laws=true"]).recipe.train.check_laws


def test_finetuning_is_refused_too(install, cli, tmp_path: Path, trained: Path) -> None:
    install("bd3cli-fake", "fake_bad", SCHEDULE.format(P + "0.9 * t"))
    options = ("--schedule", "bad", "--masking", "bernoulli", "--out", tmp_path / "new", "--steps", 2)
    refused = cli("finetune", trained, *options)
    assert refused.code == 2
    assert "breaks the law 'endpoints'" in refused.err
    assert not (tmp_path / "new").exists()


def test_beside_a_broken_schedule_the_weight_is_not_accused(install) -> None:
    install("bd3cli-fake", "fake_bad", SCHEDULE.format(P + "0.5"))
    (only,) = before.broken_laws(ObjectiveConfig(masking="bernoulli", schedule="bad"))
    assert only.startswith("The schedule 'bad' breaks the law 'range'")
    assert "mask_prob returned a float" in only


OBJECTIVES: tuple[dict[str, Any], ...] = (
    {"family": "ar"},
    *({"schedule": s} for s in ("loglinear", "square", "sqrt", "log", "cosine", "cosine:eps=0", "cosine:eps=0.5")),
    {"schedule": "full", "block_size": 1},
    {"schedule": "loglinear", "clip": (0.3, 0.8), "resample": True},
    {"masking": "count"},
    {"masking": "adaptive"},
    {"masking": "adaptive:refresh=500,memory=5"},
    *({"schedule": f"gaussian:mu={mu},sigma={sigma}"} for mu in (0, 0.5, 1) for sigma in (0.02, 0.5)),
    *({"schedule": f"bimodal-gaussian{more}"} for more in ("", ":form=piecewise", ":mu2_start=0.4")),
    {"masking": "frequency:strength=0.5"},
    *({"schedule": "cosine", "weight": weight} for weight in ("edm", "iddpm", "sigmoid:k=0", "fm", "simple")),
)  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_what_is_shipped_passes_declared_exceptions_too(objective: dict[str, Any]) -> None:
    for name in ("schedule", "weight", "masking"):
        known = {entry.name for entry in getattr(load_plugins(), f"{name}s").entries()}
        if objective.get(name, "").split(":")[0] not in known | {""}:
            pytest.skip("that plugin is not installed")
    assert before.broken_laws(ObjectiveConfig(**{"masking": "bernoulli", **objective})) == []


def test_the_check_is_quick_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Well below a second of one core, whatever else the machine does; nothing the second time."""
    objective = ObjectiveConfig(masking="bernoulli", schedule="sqrt")
    get_schedule("sqrt").rate(torch.ones(1))
    monkeypatch.setattr(before, "_lawful", set())
    clock = time.process_time()
    assert before.broken_laws(objective) == []
    assert time.process_time() - clock < 1.0
    for name in ("check_schedule", "check_weight", "check_masking"):
        monkeypatch.setattr(before, name, lambda *_: pytest.fail("looked again"))
    assert before.broken_laws(objective) == []


def test_the_name_alone_is_not_what_is_remembered(install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another class under the same name, or other parameters of the same, are looked at."""
    assert before.broken_laws(ObjectiveConfig(masking="bernoulli", schedule="cosine")) == []
    seen: list[object] = []
    monkeypatch.setattr(before, "check_schedule", lambda schedule, only: seen.append(schedule) or [])
    before.broken_laws(ObjectiveConfig(masking="bernoulli", schedule="cosine:eps=0.25"))
    assert seen == [get_schedule("cosine:eps=0.25")]


@pytest.mark.parametrize("size", [0.95, 1.05])
def test_the_quick_grid_sees_a_bias_of_a_twentieth(size: float) -> None:
    from dataclasses import dataclass, replace

    from bd3cli.maskings import MaskContext, MaskDraw, Masking, MaskNoise, get_masking

    @dataclass(frozen=True)
    class Biased(Masking):
        def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
            draw = get_masking("bernoulli").draw(noise, context)
            return replace(draw, noise=replace(draw.noise, weight=draw.noise.weight * size))

    assert "unbiased" in {law.law for law in check_masking(Biased(), QUICK) if not law.ok}


def test_schedules_that_move_are_checked_on_the_way(install) -> None:
    install("bd3cli-fake", "fake_bad", SCHEDULE.format(MOVES.format("fraction == 0.75")))
    laws = {law.law: law for law in check_schedule(get_schedule("bad"))}
    assert not laws["endpoints"].ok
    assert laws["endpoints"].detail.endswith("(with X(floor_now=0.1))")


def test_only_the_leader_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for what it says."""
    from contextlib import contextmanager

    from bd3cli.training import loop
    from bd3cli.training.distributed import Group

    class Reached(Exception):
        pass

    @contextmanager
    def follower():
        yield Group(rank=1, size=2, local_rank=1, local_size=2)

    def prepare(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(loop, "joined", follower)
    monkeypatch.setattr(loop, "require_lawful", lambda *_: pytest.fail("a follower checked"))
    monkeypatch.setattr(loop, "prepare", prepare)
    with pytest.raises(Reached):
        train(resolve("tiny", overrides=SMALL), tmp_path / "run")


def test_what_fails_is_told_once_in_the_library(install, tmp_path: Path) -> None:
    install("bd3cli-fake", "fake_bad", SCHEDULE.format(P + "0.9 * t"))
    overrides = [*SMALL, "objective.schedule=bad", "objective.masking=bernoulli"]
    with pytest.raises(InputError, match="breaks the law 'endpoints'"):
        train(resolve("tiny", overrides=overrides), tmp_path / "run")
    listen = Listen()
    train(resolve("tiny", overrides=[*overrides, "train.check_laws=false"]), tmp_path / "run", reporter=listen)
    assert sum("breaks the law" in text for text in listen.heard) == 1
