"""The picture of a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from bd3cli.reproduce.cells import Cell
from bd3cli.reproduce.plots import _panel
from bd3cli.reproduce.report import TableResult
from bd3cli.reproduce.tables import load_table


def test_an_interval_below_zero_does_not_squash_the_other_rows() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    table = load_table("clipped-schedules")
    cells = {row.id: {"var_nelbo": Cell(1.0 + i, (0.5, 2.0 + i), "seeds", (1.0,))} for i, row in enumerate(table.rows)}
    cells[table.rows[0].id]["var_nelbo"] = Cell(2000.0, (-3000.0, 7000.0), "seeds", (2000.0,))
    axis = figure.subplots()
    _panel(axis, TableResult(table, cells, (), {}), "var_nelbo", "ours")
    assert axis.get_xscale() == "log"
    low, high = axis.get_xlim()
    assert 0 < low < 0.5
    assert high > 7000


def test_every_table_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bd3cli.reproduce.plots import draw
    from bd3cli.reproduce.tables import table_names

    for name in table_names():
        table = load_table(name)
        cells = {r.id: {m: Cell(None, None, "", ()) for m in table.measures} for r in table.rows}
        assert draw(TableResult(table, cells, (), {}), tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
