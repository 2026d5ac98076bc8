"""`bd3cli schedules`, `weights`, `maskings` and `plugins` as a user meets them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bd3cli.plugins import load_plugins

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("schedules", {"loglinear", "square", "sqrt", "log", "cosine", "full"}),
        ("weights", {"none"}),
        ("maskings", {"adaptive", "bernoulli", "count"}),
    ],
)
def test_lists(cli: Cli, command: str, names: set[str]) -> None:
    document = cli(command, "list", "--json").json
    assert names <= {row["name"] for row in document[command]}
    for row in document[command]:
        assert set(row) == {"name", "distribution", "version", "summary", "parameters", "error"}
        assert row["error"] is None
        assert row["summary"], f"{row['name']} says nothing about itself"
        for parameter in row["parameters"]:
            assert parameter["help"], f"{parameter['name']} of {row['name']} is not explained"
    text = cli(command, "list").out
    assert all(name in text for name in names)


def test_schedules_show(cli: Cli) -> None:
    document = cli("schedules", "show", "cosine:eps=0.01", "--points", "0.1,0.5", "--json").json
    assert document["parameters"] == {"eps": 0.01}
    assert document["spec"] == "cosine:eps=0.01"
    assert [p["t"] for p in document["points"]] == [0.1, 0.5]
    assert document["points"][1]["mask_prob"] == pytest.approx(1 - 0.99 * 0.5**0.5)
    for point in document["points"]:
        assert point["weight"] == pytest.approx(point["rate"] / point["mask_prob"])
    text = cli("schedules", "show", "cosine").out
    assert "mask probability at t = 0" in text
    assert "[0, 0.9]" in text


def test_infinite_weights_are_null_in_json(cli: Cli) -> None:
    document = cli("schedules", "show", "loglinear", "--points", "0,1", "--json").json
    assert document["points"][0]["weight"] is None
    assert document["points"][1]["weight"] == 1


def test_weights_show(cli: Cli) -> None:
    document = cli("weights", "show", "none", "--points", "0.1,0.5", "--schedule", "square", "--json").json
    assert [(p["t"], p["weight"]) for p in document["points"]] == [(0.1, 1.0), (0.5, 1.0)]
    assert document["points"][1]["alpha"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    "arguments",
    [("schedules", "cosine"), ("weights", "none"), ("maskings", "count"), ("schedules", "loglinear", "square")],
)
def test_check_passes(cli: Cli, arguments: tuple[str, ...]) -> None:
    outcome = cli(arguments[0], "check", *arguments[1:], "--json")
    assert outcome.code == 0
    assert outcome.json["ok"] is True
    assert {law["name"] for law in outcome.json["laws"]} == set(arguments[1:])
    assert all(set(law) == {"name", "law", "ok", "detail"} and law["ok"] for law in outcome.json["laws"])
    text = cli(arguments[0], "check", *arguments[1:])
    assert re.search(r"all \d+ laws hold", text.out)


def test_check_fails_with_exit_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import bd3cli.schedules.builtin as builtin

    monkeypatch.setattr(builtin.Square, "weight", lambda self, t: 3 / t)
    outcome = cli("schedules", "check", "square", "--json")
    assert outcome.code == 1
    assert outcome.json["ok"] is False
    assert {law["law"] for law in outcome.json["laws"] if not law["ok"]} == {"weight", "invariance"}
    text = cli("schedules", "check", "square")
    assert text.code == 1
    assert "square: 2 of 13 laws fail" in text.out
    assert "Leave weight(t) out" in text.out
    assert text.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("schedules", "show", "cosin"), "no noise schedule 'cosin'. Did you mean 'cosine'?"),
        (("schedules", "show", "cosine:epsilon=1"), "has no parameter 'epsilon'; its parameters are eps."),
        (("schedules", "show", "cosine:eps=2"), "eps must lie between 0 and 0.9, not be 2.0."),
        (("schedules", "show", "cosine:eps=x"), "must be a number, not 'x'"),
        (("schedules", "show", "cosine:eps"), "is not key=value"),
        (("schedules", "show", "square:k=1"), "it takes none"),
        (("schedules", "show", "loglinear", "--points", "2"), "--points '2' must be numbers in [0, 1]"),
        (("schedules", "show", "loglinear", "--points", "a"), "--points 'a' must be numbers in [0, 1]"),
        (("weights", "check", "nonne"), "Did you mean 'none'?"),
        (("maskings", "check", "counts"), "Did you mean 'count'?"),
        (("plugins", "new", "Bad Name"), "'Bad Name' is not a plugin name"),
        (("plugins", "new", "class"), "'class' is a word of the Python language"),
        (("plugins", "new", "cosine"), "noise schedule 'cosine' is already provided by bd3cli"),
    ],
)
def test_mistakes_are_one_line_on_stderr(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_plot_in_the_terminal(cli: Cli) -> None:
    outcome = cli("schedules", "plot", "loglinear", "cosine:eps=0.01")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert sum(line.startswith(("mask probability", "NELBO weight", "where training")) for line in lines) == 3
    assert sum("cosine:eps=0.01" in line for line in lines) == 3
    assert "●" in outcome.out
    assert "○" in outcome.out
    assert max(map(len, lines)) <= 84


def test_plotted_numbers(cli: Cli) -> None:
    probability, weight, rates = cli("schedules", "plot", "square", "--json").json["panels"]
    (curve,) = probability["curves"]
    assert curve["y"] == pytest.approx([t * t for t in curve["x"]])
    (curve,) = weight["curves"]
    assert curve["y"] == pytest.approx([2 / t for t in curve["x"]])
    (curve,) = rates["curves"]
    # p = t^2 for uniform t has density 1 / (2 sqrt(p)); each bar is its mean over the bar
    edges = [i / len(curve["x"]) for i in range(len(curve["x"]) + 1)]
    expected = [(b**0.5 - a**0.5) / (b - a) for a, b in pairwise(edges)]
    assert curve["y"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("arguments", [("schedules", "plot", "loglinear", "full"), ("weights", "plot", "none")])
def test_plot_as_png(cli: Cli, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plot.png"
    assert cli(*arguments, "--png", picture).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_png_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    outcome = cli("schedules", "plot", "loglinear", "--png", tmp_path / "no" / "such" / "plot.png")
    assert outcome.code == 1
    assert "cannot be written: No such file or directory" in outcome.err


def test_png_without_matplotlib(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = cli("schedules", "plot", "loglinear", "--png", tmp_path / "plot.png")
    assert outcome.code == 2
    assert "python -m pip install 'bd3cli[plot]'" in outcome.err


def test_plugins_list(cli: Cli) -> None:
    (core,) = [p for p in cli("plugins", "list", "--json").json["plugins"] if p["distribution"] == "bd3cli"]
    assert core["error"] is None
    assert {"loglinear", "none", "count"} <= set(core["provides"])
    assert set(core["hooks"]) == set(load_plugins().registries())
    assert "bd3cli" in cli("plugins", "list").out


def test_scaffold_says_what_it_wrote(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "plug"
    document = cli("plugins", "new", "my-noise", "--out", folder, "--json").json
    assert sorted(document["files"]) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert "bd3cli_my_noise/schedule.py" in document["files"]
    assert not any("@" in p.read_text() for p in folder.rglob("*.toml"))
    outcome = cli("plugins", "new", "my-noise", "--out", folder)
    assert outcome.code == 2
    assert "is not empty" in outcome.err


@pytest.mark.slow  # told by `nox -s plugins` too, which installs it
def test_scaffolded_plugin_passes_its_own_tests(cli: Cli, tmp_path: Path) -> None:
    """Unchanged, as if installed: its folder on the path, beside the metadata an installer writes."""
    folder = tmp_path / "plug"
    assert cli("plugins", "new", "my-noise", "--out", folder).code == 0
    info = folder / "bd3cli_my_noise-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bd3cli-my-noise\nVersion: 0.1.0\n")
    pyproject = (folder / "pyproject.toml").read_text()
    (entry_point,) = re.findall(r"\[project.entry-points.bd3cli\]\n(.*)\n", pyproject)
    (info / "entry_points.txt").write_text(f"[bd3cli]\n{entry_point.replace(chr(34), '')}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        env={"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout
