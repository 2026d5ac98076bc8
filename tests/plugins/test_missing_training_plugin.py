"""What does not need a run's training masks does not need the plugin they came from; what does says so."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

SQUARE = """
from dataclasses import dataclass
from bd3cli import hookimpl
from bd3cli.schedules import NoiseSchedule
@dataclass(frozen=True)
class S(NoiseSchedule):
    def mask_prob(self, t):
        return t * t
@hookimpl
def register_noise_schedules(register):
    register('fake-square', S)
"""
SMALL = ("train.steps=4", "train.batch_size=4", "train.validate_sequences=8", "train.validate_every=4",
         "model.hidden_size=32", "model.heads=2", "model.blocks=1", "model.cond_dim=8", "model.length=32")  # fmt: skip
QUICKLY = ("--sequences", 16, "--variance-batches", 2, "--json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained under a schedule of the distribution bd3cli-fake 1.2, by now uninstalled; with its Var. NELBO."""
    from bd3cli.plugins import load_plugins
    from bd3cli.recipes.resolve import resolve
    from bd3cli.training.loop import train

    site, run = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("runs") / "run"
    (site / "fake_training.py").write_text(SQUARE)
    (site / "bd3cli_fake-1.2.dist-info").mkdir()
    (site / "bd3cli_fake-1.2.dist-info" / "METADATA").write_text("Name: bd3cli-fake\nVersion: 1.2\n")
    (site / "bd3cli_fake-1.2.dist-info" / "entry_points.txt").write_text("[bd3cli]\nmain = fake_training\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("BD3CLI_CACHE", str(run.parent / "cache"))
        load_plugins.cache_clear()
        chosen = ("objective.masking=bernoulli", "objective.schedule=fake-square")
        train(resolve("tiny", overrides=[*SMALL, *chosen]), run)
    load_plugins.cache_clear()
    del sys.modules["fake_training"]
    return run


def test_with_its_plugin_a_run_has_its_variance(made: Path, install, cli) -> None:
    install("bd3cli-fake", "fake_training", SQUARE)
    found = cli("eval", made, *QUICKLY)
    assert found.json["var_nelbo"] > 0
    assert "var_nelbo_reason" not in found.json
    assert found.err == ""


def test_without_its_plugin_a_run_is_evaluated_but_for_that(made: Path, cli) -> None:
    found = cli("eval", made, *QUICKLY)
    assert found.code == 0
    assert found.json["ppl"] > 1
    assert found.json["var_nelbo"] is None
    reason = found.json["var_nelbo_reason"]
    assert "'fake-square' of bd3cli-fake 1.2, which is not available" in reason
    assert "python -m pip install 'bd3cli-fake==1.2'" in reason
    assert found.err == f"bd3cli: {made}: evaluated without the Var. NELBO of its training masks. {reason}\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_like_this", r"installed but does not load: cannot be imported.*fake_training\.py, line 1"),
        (SQUARE.replace("t * t", "[][t.dim()]"), r"of bd3cli-fake 1\.2 raised IndexError.*line 8, in S\."),
        (SQUARE.replace("return t * t", "raise SystemExit(0)"), "raised SystemExit: 0"),
        (SQUARE.replace("t * t", "0.5"), "mask_prob returned a float"),
        (SQUARE.replace("t * t", "t * float('nan')"), "masks nothing"),
        (SQUARE.replace("def mask_prob", "def __post_init__(self):\n        1 / 0\n    def mask_prob"), "ZeroDivision"),
        (SQUARE.replace("register('fake-square', S)", "register('fake-square', 'fake_training:Gone')"), "no attribute"),
        (SQUARE.replace("def mask_prob", "k: int = None\n    def __post_init__(self):\n        raise ValueError('no')\n"
                        "    def mask_prob"), "no"),
    ],
)  # fmt: skip
def test_a_plugin_that_is_broken_by_now_is_named_too(made: Path, install, cli, source: str, reason: str) -> None:
    install("bd3cli-fake", "fake_training", source)
    found = cli("eval", made, *QUICKLY)
    assert found.code == 0, found.err
    assert found.json["var_nelbo"] is None
    assert re.search(reason, found.json["var_nelbo_reason"]), found.json["var_nelbo_reason"]


def test_training_text_that_is_gone_costs_the_same_figure_only(tmp_path: Path, install, cli, monkeypatch) -> None:
    """`frequency` counts the training tokens."""
    (tmp_path / "train.txt").write_text("one two three four " * 400)
    (tmp_path / "other.txt").write_text("five six seven eight " * 200)
    sets = [part for value in SMALL for part in ("--set", value)]
    options = ("--data", tmp_path / "train.txt", "--masking", "frequency", "--set", "data.document=line")
    assert cli("train", "--out", tmp_path / "run", *options, *sets).code == 0
    (tmp_path / "train.txt").unlink()
    monkeypatch.setenv("BD3CLI_CACHE", str(tmp_path / "empty-cache"))
    found = cli("eval", tmp_path / "run", "--data", tmp_path / "other.txt", *QUICKLY)
    assert found.code == 0, found.err
    assert found.json["ppl"] > 1
    assert "train.txt" in found.json["var_nelbo_reason"]


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "RUN", "--length", 16),
        ("zeroshot", "RUN", "--datasets", "x", "--data", "x=TEXT", "--sequences", 4),
        ("runs", "list", "PARENT"),
        ("runs", "show", "RUN"),
        ("checkpoint", "show", "RUN"),
        ("checkpoint", "verify", "RUN"),
        ("checkpoint", "export", "RUN", "--out", "OUT"),
        ("eval", "RUN", "--variance-of", "loglinear;masking:count", *QUICKLY[:-1]),
        ("schedules", "search", "RUN", "--schedule", "loglinear", "--batches", 2, "--widths", "0.5", "--step", "0.5"),
        ("finetune", "RUN", "--schedule", "loglinear", "--out", "OUT"),
        ("finetune", "RUN", "--masking", "count", "--out", "OUT"),
    ],
)
def test_what_draws_no_training_masks_needs_no_plugin(made: Path, tmp_path: Path, cli, command: tuple) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words of a text\n" * 50)
    named = {"RUN": made, "PARENT": made.parent, "OUT": tmp_path / "out", "x=TEXT": f"x={text}"}
    assert cli(*(named.get(str(part), part) for part in command), "--json").code == 0


@pytest.mark.parametrize(
    "command",
    [("train", "--resume", "--steps", 9, "--out", "RUN"), ("finetune", "RUN", "--out", "OUT"),
     ("schedules", "search", "RUN", "--batches", 2)],
)  # fmt: skip
def test_what_trains_under_it_still_refuses(made: Path, tmp_path: Path, cli, command: tuple) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    named = {"RUN": run, "OUT": tmp_path / "out"}
    found = cli(*(named.get(str(part), part) for part in command))
    assert found.code == 2
    assert "python -m pip install 'bd3cli-fake==1.2'" in found.err
    assert not (tmp_path / "out").exists()
