"""What `schedules`, `weights` and `maskings` have in common: listing, describing, reporting laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bd3cli.cli.common import emit_json
from bd3cli.cli.view.tables import print_table
from bd3cli.errors import InputError

if TYPE_CHECKING:
    from bd3cli.parameters import Parameter
    from bd3cli.plugins.registry import Entry, Registry
    from bd3cli.studies.curves import Panel
    from bd3cli.testing.law import Law

PointsOption = Annotated[
    str, typer.Option("--points", metavar="T,T,...", help="Times at which to show values, in [0, 1].")
]
PngOption = Annotated[
    Path | None, typer.Option("--png", metavar="FILE", help="Also draw it with matplotlib into this file.")
]
DEFAULT_POINTS = "0.001,0.01,0.1,0.25,0.5,0.75,0.9,1"


def numbers(text: str) -> list[float]:
    """The times of a ``--points`` option.

    Raises:
        InputError: not numbers in [0, 1].
    """
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or not all(0 <= v <= 1 for v in values):
        raise InputError(f"--points {text!r} must be numbers in [0, 1] with commas between, such as 0.1,0.5,0.9.")
    return values


def describe(registry: Registry[Any], entry: Entry) -> dict[str, Any]:
    """Name, origin, one-line summary and parameters of an entry; an error in place of the latter two."""
    from bd3cli.parameters import describe_parameters

    base = {"name": entry.name, "distribution": entry.distribution, "version": entry.version}
    try:
        cls = registry.get(entry.name)
        parameters = [asdict(p) for p in describe_parameters(cls)]
    except Exception as error:
        return {**base, "summary": "", "parameters": [], "error": str(error)}
    return {**base, "summary": summary(cls), "parameters": parameters, "error": None}


def summary(cls: type) -> str:
    """The first line of a class's own docstring."""
    text = cls.__dict__.get("__doc__") or ""
    if text.startswith(f"{cls.__name__}("):  # made up by @dataclass
        return ""
    return text.strip().split("\n")[0]


def print_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """Everything of one kind that is installed."""
    print_table(
        ("name", "from", "parameters", "summary"),
        [
            (
                row["name"],
                f"{row['distribution']} {row['version']}",
                ", ".join(f"{p['name']}={p['default']}" for p in row["parameters"]) or "-",
                row["summary"] if row["error"] is None else f"broken: {row['error']}",
            )
            for row in rows
        ],
    )


def print_parameters(parameters: Sequence[Parameter], instance: Any) -> None:
    """Value, type, range and meaning of every parameter, if there are any."""
    if not parameters:
        return
    print_table(
        ("parameter", "value", "default", "type", "range", "meaning"),
        [(p.name, getattr(instance, p.name), p.default, p.type, _range(p), p.help) for p in parameters],
    )
    print()


def _range(p: Parameter) -> str:
    if p.low is None and p.high is None:
        return "-"
    return f"[{'-inf' if p.low is None else f'{p.low:g}'}, {'inf' if p.high is None else f'{p.high:g}'}]"


def report_laws(checked: Mapping[str, Sequence[Law]], json: bool) -> None:
    """Print the laws of each checked specification, and exit with 1 if any fails."""
    rows = [{"name": name, **asdict(law)} for name, laws in checked.items() for law in laws]
    ok = all(row["ok"] for row in rows)
    if json:
        emit_json({"ok": ok, "laws": rows})
    else:
        for name, laws in checked.items():
            failed = sum(not law.ok for law in laws)
            verdict = f"{failed} of {len(laws)} laws fail" if failed else f"all {len(laws)} laws hold"
            print_table(
                ("law", "", "worst point, or what to fix"),
                [(law.law, "ok" if law.ok else "FAILS", law.detail) for law in laws],
                title=f"{name}: {verdict}",
            )
            print()
    if not ok:
        raise typer.Exit(1)


def draw(panels: Sequence[Panel], png: Path | None, json: bool) -> None:
    """Show panels in the terminal or as JSON, and as a PNG if asked for."""
    from bd3cli.cli.view.chart import print_panels, save_png

    if png is not None:
        save_png(panels, png)
    if json:
        emit_json({"panels": [asdict(panel) for panel in panels]})
    else:
        print_panels(panels)
