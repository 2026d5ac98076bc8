"""Charts for the terminal, and the same panels as a PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bd3cli.errors import IMPOSSIBLE_PATHS, InputError, RunError

if TYPE_CHECKING:
    from bd3cli.studies.curves import Curve, Panel

MARKS = "●○×+▲△■□◆◇"
COLOURS = ("cyan", "magenta", "yellow", "green", "red", "blue")
LABEL = 10  # columns of the labels left of a chart


def print_panels(panels: Sequence[Panel], width: int = 72, height: int = 14) -> None:
    """Draw each panel on stdout; every curve has a mark, and a colour where the terminal has one."""
    from rich.text import Text

    from bd3cli.cli.common import out

    console = out()
    for panel in panels:
        for line in chart_lines(panel, width, height):
            text = Text("".join(mark for mark, _ in line), no_wrap=True)
            for column, (_, curve) in enumerate(line):
                if curve is not None:
                    text.stylize(COLOURS[curve % len(COLOURS)], column, column + 1)
            console.print(text, soft_wrap=True)
        console.print()


Cell = tuple[str, int | None]  # a character, and the index of the curve it belongs to


def chart_lines(panel: Panel, width: int, height: int) -> list[list[Cell]]:
    """A panel as lines of cells: title, plot with axis labels, legend."""
    scale = _logarithm if panel.logarithmic else _identity
    points = [[(x, scale(y)) for x, y in _finite(c, panel.logarithmic)] for c in panel.curves]
    xs = [x for curve in points for x, _ in curve] or [0.0, 1.0]
    ys = [y for curve in points for _, y in curve] or [0.0, 1.0]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = (min(ys), max(ys)) if panel.logarithmic else (min(0.0, *ys), max(ys))
    y_high = y_high if y_high > y_low else y_low + 1
    x_high = x_high if x_high > x_low else x_low + 1
    grid: list[list[Cell]] = [[(" ", None)] * width for _ in range(height)]
    for index, curve in enumerate(points):
        for x, y in _dense(curve, width):
            column = round((x - x_low) / (x_high - x_low) * (width - 1))
            row = height - 1 - round((y - y_low) / (y_high - y_low) * (height - 1))
            grid[row][column] = (MARKS[index % len(MARKS)], index)
    unscale = (lambda y: 10**y) if panel.logarithmic else _identity
    axis = " (logarithmic)" if panel.logarithmic else ""
    lines = [_plain(f"{panel.title}: {panel.y_label} against {panel.x_label}{axis}")]
    for row, cells in enumerate(grid):
        value = y_high - (y_high - y_low) * row / (height - 1)
        label = f"{unscale(value):.3g}" if row in (0, height // 2, height - 1) else ""
        lines.append([*_plain(f"{label:>{LABEL - 2}} │"), *cells])
    lines.append(_plain(" " * (LABEL - 1) + "└" + "─" * width))
    ends = f"{x_low:.3g}", f"{x_high:.3g}"
    lines.append(_plain(" " * LABEL + ends[0] + ends[1].rjust(width - len(ends[0]))))
    for index, entry in enumerate(panel.curves):
        lines.append([*_plain(" " * LABEL), (MARKS[index % len(MARKS)], index), *_plain(f" {entry.name}")])
    return lines


def save_png(panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels side by side with matplotlib.

    Raises:
        InputError: matplotlib is not installed, or no file can have that path.
        RunError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "--png needs matplotlib, which is not installed. Install it with: python -m pip install 'bd3cli[plot]'"
        ) from error
    figure = Figure(figsize=(5.2 * len(panels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        kind = InputError if error.errno in IMPOSSIBLE_PATHS else RunError
        raise kind(f"{path} cannot be written: {error.strerror or error}. Choose another --png.") from error


def _draw(axes: Any, panel: Panel) -> None:
    for curve in panel.curves:
        axes.plot(curve.x, curve.y, label=curve.name, linewidth=1.5, marker="o" if panel.marked else "", markersize=3)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.logarithmic:
        axes.set_yscale("log")
    if panel.x_range is not None:
        low, high = panel.x_range
        axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _finite(curve: Curve, logarithmic: bool) -> list[tuple[float, float]]:
    pairs = zip(curve.x, curve.y, strict=True)
    return [(x, y) for x, y in pairs if math.isfinite(y) and (y > 0 or not logarithmic)]


def _dense(curve: list[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """The curve with points between distant neighbours, so that it has no holes in flat stretches."""
    dense = list(curve[:1])
    for (x0, y0), (x1, y1) in pairwise(curve):
        steps = max(1, math.ceil(2 * width / max(len(curve), 1)))
        dense += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps + 1)]
    return dense


def _plain(text: str) -> list[Cell]:
    return [(character, None) for character in text]


def _identity(y: float) -> float:
    return y


_logarithm: Callable[[float], float] = math.log10
