"""What every command shares: results on stdout, everything else on stderr, one JSON document on request."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory written by `bd3cli train`.")]
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best, last, or a name such as step-00000500.")]


def emit_json(document: Mapping[str, object]) -> None:
    """Print the command's one JSON document. Numbers JSON cannot hold become null."""
    sys.stdout.write(json_line({"schema": SCHEMA, **document}))
    sys.stdout.flush()


def json_line(document: Mapping[str, object]) -> str:
    """`document` as one line of JSON, in ASCII so that it is the same bytes whatever encoding it passes through."""
    return json.dumps(finite(document), allow_nan=False, default=str) + "\n"


def finite(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, all the way down."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def out() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False)


def err() -> Console:
    """The console for progress and notices."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def notice(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"bd3cli: {text}\n")
    sys.stderr.flush()


def progress_bar(description: str) -> Any:
    """A Rich progress bar on stderr, off when stderr is not a terminal. Use as a context manager."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = err()
    return Progress(
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def print_notes(found: list[tuple[str, list[str]]]) -> None:
    """Why intervals may be too narrow, each reason once with what it is about."""
    about: dict[str, list[str]] = {}
    for name, notes in found:
        for note in notes:
            about.setdefault(note, []).append(name)
    for note, names in about.items():
        print(f"Note on the interval{'s' if len(names) > 1 else ''} of {', '.join(names)}: {note}.")


def integers(text: str, option: str) -> list[int]:
    """Whole numbers of a comma-separated `option`."""
    from bd3cli.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} must be whole numbers separated by commas, not {text!r}.") from None
