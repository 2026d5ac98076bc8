"""A picture of each table: a panel for each measure and source, rows in one order, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bd3cli.reproduce.report import HEADINGS, TableResult, publications

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"ours": "#1f5a96", "paper": "#b5551d", "reproduction": "#6b6b6b"}
WIDE_RANGE = 20  # a panel whose values span more than this factor has a logarithmic axis


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(result: TableResult, path: Path) -> Path:
    """Write the picture as PNG; `can_draw` says beforehand whether that is possible."""
    from matplotlib.figure import Figure

    panels = [
        (measure, who) for measure in result.table.measures for who in ("ours", *publications(result.table, measure))
    ]
    sources = len({who for _, who in panels})
    many = len(result.table.measures) > 2
    columns = len(result.table.measures) if many else len(panels)
    grid = sources if many else 1
    rows = len(result.table.rows)
    # the first column carries the labels
    figure = Figure(figsize=(2.2 + 2.3 * columns, grid * (0.9 + 0.24 * rows) + 0.5), layout="constrained", dpi=160)
    axes = figure.subplots(grid, columns, squeeze=False, sharey=True)
    used = set()
    for index, (measure, who) in enumerate(panels):
        at = (
            (["ours", "paper", "reproduction"].index(who), result.table.measures.index(measure)) if many else (0, index)
        )
        at = (min(at[0], grid - 1), at[1])
        used.add(at)
        _panel(axes[at], result, measure, who)
    for at, axis in [((i, j), axes[i][j]) for i in range(grid) for j in range(columns)]:
        if at not in used:
            axis.set_axis_off()
    figure.suptitle(result.table.title, fontsize=11, x=0.01, ha="left")
    figure.savefig(path)
    return path


def _panel(axis: Axes, result: TableResult, measure: str, who: str) -> None:
    rows = result.table.rows
    points: list[float] = []
    for y, row in enumerate(rows):
        if who == "ours":
            points += _own(axis, y, result.cells[row.id][measure])
        else:
            values = getattr(row, who).get(measure)
            listed = [] if values is None else values if isinstance(values, list) else [values]
            axis.plot(listed, [y] * len(listed), "D", ms=4, color=COLOURS[who], mfc="white")
            points += listed
    if points and min(points) > 0 and max(points) / min(points) > WIDE_RANGE:
        from matplotlib.ticker import LogFormatter, LogLocator, NullFormatter

        # an interval of a heavy-tailed variance may reach below 0: it then runs off the axis
        axis.set_xscale("log", nonpositive="clip")
        axis.set_xlim(min(points) / 1.5, max(points) * 1.5)
        axis.xaxis.set_major_locator(LogLocator(numticks=5))
        axis.xaxis.set_major_formatter(LogFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
    if not points:
        axis.text(0.5, 0.5, "no data", transform=axis.transAxes, ha="center", color="#888888")
        axis.set_xticks([])
    axis.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=7)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
    for y, row in enumerate(rows[1:], 1):
        if row.group != rows[y - 1].group:
            axis.axhline(y - 0.5, color="#aaaaaa", lw=0.6)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.set_title(f"{HEADINGS.get(measure, measure)}, {who}", fontsize=8, color=COLOURS[who], loc="left")


def _own(axis: Axes, y: int, cell: Any) -> list[float]:
    if cell.value is None:
        return []
    points = [cell.value]
    if cell.ci95 is not None:
        axis.plot(cell.ci95, [y, y], "-", color=COLOURS["ours"], lw=1.4, solid_capstyle="butt")
        points += [end for end in cell.ci95 if end > 0]
    axis.plot([cell.value], [y], "o", ms=4.5, color=COLOURS["ours"])
    return points
