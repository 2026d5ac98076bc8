"""All tables as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from bd3cli.reproduce.report import (
    CLAIM_COLUMNS,
    TableResult,
    body,
    claim_cells,
    columns,
    facts,
    measured_notes,
    summary,
)

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #666; --line: #ddd; --paper: #fff; --tint: #f5f7fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a0a0a0; --line: #3a3a3a; --paper: #161616; --tint: #202428; }
  img { background: #fff; padding: .5rem; border-radius: 4px; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }
main { max-width: 70rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.25rem; margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
nav a { margin-right: 1rem; white-space: nowrap; } a { color: #2f73b7; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td:first-child { white-space: nowrap; }
img { max-width: 100%; height: auto; } .soft, .facts { color: var(--soft); font-size: .87rem; }
.holds { color: #20803a; } .fails { color: #b3261e; } .undecided { color: #9a6b00; }
code { background: var(--tint); padding: .1em .3em; border-radius: 3px; overflow-wrap: anywhere; }
"""


def page(results: Sequence[TableResult], pictures: Mapping[str, Path]) -> str:
    """The page's HTML.

    Args:
        pictures: PNG by table name, embedded into the page.
    """
    links = "".join(f'<a href="#{r.table.name}">{html.escape(r.table.name)}</a> ' for r in results)
    sections = "".join(_section(result, pictures.get(result.table.name)) for result in results)
    scale = html.escape(str(results[0].provenance["scale"])) if results else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Block diffusion tables, scale {scale}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>Published tables of block diffusion, run again (scale {scale})</h1>"
        "<p class=\"soft\">Ours beside the paper's and the student reproduction's figures. Perplexities of different "
        "scales are not comparable with each other; orderings are.</p>"
        f"<nav>{links}</nav>{sections}</main></body></html>\n"
    )


def _section(result: TableResult, picture: Path | None) -> str:
    table = result.table
    parts = [
        f'<section id="{table.name}"><h2>{html.escape(table.title)}</h2>',
        f'<p class="soft">{html.escape(table.source)}. {html.escape(summary(result.provenance)).replace("`", "")}</p>',
        _table(columns(result), [[cell.replace("&nbsp;", "\u00a0") for cell in row] for row in body(result)]),
    ]
    if picture is not None:
        encoded = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f'<img alt="{html.escape(table.title)}" src="data:image/png;base64,{encoded}">')
    if result.outcomes:
        rows = [claim_cells(result, outcome) for outcome in result.outcomes]
        parts += ["<h3>Orderings</h3>", _table(CLAIM_COLUMNS, rows, verdict=1)]
    notes = [*table.notes, *measured_notes(result)]
    if notes:
        parts.append("<h3>Notes</h3><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    listed = "; ".join(f"{name}: {value}" for name, value in facts(result.provenance))
    parts.append(f'<p class="facts">{_code(listed)}</p></section>')
    return "".join(parts)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], verdict: int | None = None) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in headings)
    lines = []
    for row in rows:
        cells = [
            f'<td class="{html.escape(cell.split()[0])}">{html.escape(cell)}</td>'
            if column == verdict
            else f"<td>{html.escape(cell)}</td>"
            for column, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _code(text: str) -> str:
    """Backticks to <code>, everything escaped."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
