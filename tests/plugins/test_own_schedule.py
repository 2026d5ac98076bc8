"""examples/own_schedule, installed as a user would install it."""

from __future__ import annotations

import json
import runpy
import tomllib
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_schedule"


@pytest.fixture
def ramp(install) -> None:
    """The distribution of the example, with the entry point that its pyproject.toml names."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]
    ((entry_point, module),) = project["entry-points"]["bd3cli"].items()
    install(project["name"], module, (EXAMPLE / f"{module}.py").read_text("utf-8"), entry_point, project["version"])


def test_it_is_listed_and_obeys_the_laws(ramp, cli) -> None:
    listed = {p["distribution"]: p for p in cli("plugins", "list", "--json").json["plugins"]}
    assert listed["bd3cli-ramp"]["provides"] == ["ramp"]
    assert listed["bd3cli-ramp"]["error"] is None
    shown = cli("schedules", "show", "ramp:bend=0.8", "--points", "0.5", "--json").json["points"][0]
    assert shown["mask_prob"] == pytest.approx(0.5 * (1 - 0.8 * 0.5))
    assert shown["weight"] == pytest.approx((1 - 0.8 + 2 * 0.8 * 0.5) / 0.3)  # p' = 1 - bend + 2 bend t
    checked = cli("schedules", "check", "ramp", "ramp:bend=0", "ramp:bend=0.95", "--json")
    assert checked.code == 0, checked.out


def test_a_model_trains_with_it(ramp, cli, tmp_path: Path, quick) -> None:
    settings = [part for setting in quick for part in ("--set", setting)]
    done = cli("train", "--schedule", "ramp:bend=0.8", "--steps", "3", "--out", tmp_path / "run", *settings)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["uses"]["schedule"] == {"name": "ramp", "distribution": "bd3cli-ramp", "version": "0.1.0"}


def test_as_a_program_it_prints_its_laws(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE / "bd3cli_ramp.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "invariance" in line]
    assert all(line.startswith("ok") for line in lines), lines
