"""Tables on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bd3cli.cli.common import out


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table on stdout; when piped it is as wide as its content needs, so nothing is cut off."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = out()
    if not console.is_terminal:
        console.width = 10_000
        console.soft_wrap = True
    console.print(table)
