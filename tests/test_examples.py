"""The programs in examples/ run, and print what they say they print."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

import bd3cli
from bd3cli.evaluation import compare

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
Example = Callable[..., str]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """Run a program in this process with arguments; what it printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"train_from_python.py", "compare_two_runs.py"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} - {"__pycache__"} == {"own_schedule"}


def test_training_from_python(example: Example, tmp_path: Path, quick: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    out = example("train_from_python.py", run, *quick, "train.steps=4", "eval.sequences=16")
    assert "finished after 4 steps" in out
    nats, low, high = map(float, re.findall(r"\d+\.\d+", out.splitlines()[1]))
    assert low < nats < high
    assert re.findall(r"seed (\d), \d+ network evaluations: 'The ", out) == ["1", "2"]
    assert bd3cli.load(str(run)).step == 4


def test_comparing_two_runs(example: Example, trained: Path, trained_ar: Path) -> None:
    out = example("compare_two_runs.py", trained, trained_ar, 16)
    printed = re.search(r"first - second: ([+-]\d+\.\d+)", out)
    assert printed is not None
    runs = [bd3cli.load(str(path)) for path in (trained, trained_ar)]
    first, second = (run.evaluate(run.split("test"), sequences=16) for run in runs)
    assert float(printed[1]) == pytest.approx(compare(first, second).nats_per_token.value, abs=5e-5)
    assert "of 16 sequences" in out


def test_runs_of_different_text_are_not_compared(
    example: Example, trained: Path, tmp_path: Path, quick: tuple[str, ...]
) -> None:
    other = tmp_path / "longer"
    example("train_from_python.py", other, *quick, "train.steps=1", "model.length=64", "eval.sequences=8")
    with pytest.raises(SystemExit, match="length 32 against 64"):
        example("compare_two_runs.py", trained, other, 8)


@pytest.mark.parametrize("name", ["train_from_python.py", "compare_two_runs.py"])
def test_without_arguments_an_example_says_how_it_is_used(example: Example, name: str) -> None:
    with pytest.raises(SystemExit, match=f"python examples/{name}"):
        example(name)
