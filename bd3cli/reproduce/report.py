"""A table's results as Markdown and as JSON: ours, the paper's and the reproduction's, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bd3cli.evaluation.intervals import bounded_exp
from bd3cli.reproduce.cells import Cell
from bd3cli.reproduce.claims import Outcome
from bd3cli.reproduce.tables import Claim, Row, Table, load_table

HEADINGS = {
    "ppl": "PPL", "var_nelbo": "Var. NELBO", "gen_ppl": "Gen. PPL, L", "nfe": "NFE, L", "gen_ppl_2l": "Gen. PPL, 2L",
    "nfe_2l": "NFE, 2L", "entropy": "entropy (nats)", "median": "median tokens", "max": "max tokens",
}  # fmt: skip
PAPER_TOKENS = {"lm1b": 1_000_000 * 512 * 128, "openwebtext": 1_000_000 * 512 * 1024}  # Arriola et al. 2025, section 6


@dataclass(frozen=True)
class TableResult:
    """A table measured at a scale.

    Attributes:
        cells: by row id and measure.
        outcomes: one for each of the table's claims.
        provenance: scale, seeds, corpora, budget, command, versions, wall time.
    """

    table: Table
    cells: Mapping[str, Mapping[str, Cell]]
    outcomes: tuple[Outcome, ...]
    provenance: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """One JSON document, without the per-sequence values."""
        rows = []
        for row in self.table.rows:
            cells = {
                measure: {
                    "value": cell.value, "ci95": cell.ci95, "interval_over": cell.interval_over,
                    "effective_n": cell.effective, "by_seed": cell.raw, "notes": cell.notes,
                }
                for measure, cell in self.cells[row.id].items()
            }  # fmt: skip
            rows.append(
                {
                    "id": row.id,
                    "group": row.group,
                    "label": row.label,
                    "ours": cells,
                    "paper": dict(row.paper),
                    "reproduction": dict(row.reproduction),
                }
            )
        return {
            "table": self.table.name,
            "title": self.table.title,
            "source": self.table.source,
            "measures": list(self.table.measures),
            "rows": rows,
            "claims": [asdict(outcome) for outcome in self.outcomes],
            "notes": list(self.table.notes),
            **self.provenance,
        }

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> TableResult:
        """The result behind `as_dict`, of a table as it is described today.

        Raises:
            InputError: there is no such table.
            KeyError, TypeError, ValueError: it is not such a document.
        """
        table = load_table(document["table"])
        if [row["id"] for row in document["rows"]] != [row.id for row in table.rows]:
            raise ValueError(f"{table.name} has other rows today")
        cells = {
            row["id"]: {
                measure: Cell(
                    value=ours["value"],
                    ci95=None if ours["ci95"] is None else (ours["ci95"][0], ours["ci95"][1]),
                    interval_over=ours["interval_over"],
                    raw=tuple(ours["by_seed"]),
                    notes=tuple(ours["notes"]),
                    effective=ours.get("effective_n"),
                )
                for measure, ours in row["ours"].items()
            }
            for row in document["rows"]
        }
        outcomes = tuple(
            Outcome(**{**claim, "claim": Claim(**claim["claim"]), "ci95": claim["ci95"] and tuple(claim["ci95"])})
            for claim in document["claims"]
        )
        own = {"schema", "table", "title", "source", "measures", "rows", "claims", "notes"}
        return TableResult(table, cells, outcomes, {k: v for k, v in document.items() if k not in own})


def markdown(result: TableResult, picture: str = "") -> str:
    """The table, its orderings, its notes and its provenance.

    Args:
        picture: address of its picture, where there is one.
    """
    table = result.table
    lines = [f"# {table.title}", "", f"`{table.name}` after {table.source}.", ""]
    lines += [summary(result.provenance), ""]
    lines += ["| " + " | ".join(columns(result)) + " |", "|" + "---|" * len(columns(result))]
    lines += ["| " + " | ".join(cells) + " |" for cells in body(result)]
    if picture:
        lines += ["", f"![{table.title}]({picture})"]
    if result.outcomes:
        lines += ["", "## Orderings", "", "| " + " | ".join(CLAIM_COLUMNS) + " |", "|" + "---|" * len(CLAIM_COLUMNS)]
        lines += ["| " + " | ".join(claim_cells(result, outcome)) + " |" for outcome in result.outcomes]
    notes = [*table.notes, *measured_notes(result)]
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    lines += ["", "## Provenance", "", *(f"- {name}: {value}" for name, value in facts(result.provenance))]
    return "\n".join(lines) + "\n"


def columns(result: TableResult) -> list[str]:
    """Headings of the table's columns; a publication without figures has none."""
    out = ["model"]
    for measure in result.table.measures:
        name = HEADINGS.get(measure, measure)
        known = any(cells[measure].ci95 is not None for cells in result.cells.values())
        out += [f"{name}, ours (95%)" if known else f"{name}, ours"]
        out += [f"{name}, {who}" for who in publications(result.table, measure)]
    return out


def publications(table: Table, measure: str) -> list[str]:
    return [who for who in ("paper", "reproduction") if any(measure in getattr(row, who) for row in table.rows)]


def body(result: TableResult) -> list[list[str]]:
    """The rows, as text."""
    out, group = [], ""
    for row in result.table.rows:
        label = row.label
        if row.group:
            label = f"{row.group}: {row.label}" if row.group != group else f"&nbsp;&nbsp;{row.label}"
            group = row.group
        line = [label]
        for measure in result.table.measures:
            line.append(cell_text(result.cells[row.id][measure]))
            line += [published_text(row, who, measure) for who in publications(result.table, measure)]
        out.append(line)
    return out


def cell_text(cell: Cell) -> str:
    if cell.value is None:
        return "no data"
    if cell.ci95 is None:
        return number(cell.value)
    rests_on = "" if cell.effective is None or "seeds" in cell.interval_over else f"; n {cell.effective:.0f}"
    return f"{number(cell.value)} ({number(cell.ci95[0])} to {number(cell.ci95[1])}{rests_on})"


def published_text(row: Row, who: str, measure: str) -> str:
    value = getattr(row, who).get(measure)
    if value is None:
        return "-"
    return "; ".join(map(number, value)) if isinstance(value, list) else number(value)


def number(value: float) -> str:
    """Four significant digits, whole numbers in full."""
    if value == int(value) and abs(value) < 1e7:
        return str(int(value))
    return f"{value:.4g}"


CLAIM_COLUMNS = ("claim", "here", "difference", "p", "why not")


def claim_cells(result: TableResult, outcome: Outcome) -> list[str]:
    """One line of the orderings, under `CLAIM_COLUMNS`."""
    claim = outcome.claim
    first, second = result.table.row(claim.first).title, result.table.row(claim.second).title
    heading = HEADINGS.get(claim.measure, claim.measure)
    text = f"{heading}: {first} {claim.relation} {second}"
    if outcome.difference is None:
        return [text, outcome.verdict, "-", "-", ""]
    if claim.measure == "var_nelbo":
        return [text, outcome.verdict, ratio_text(outcome), p_text(outcome), why_not(result, outcome)]
    difference = f"{outcome.difference:+.4f}"
    if outcome.ci95:
        difference += f" ({outcome.ci95[0]:+.4f} to {outcome.ci95[1]:+.4f})"
    return [text, outcome.verdict, difference, p_text(outcome), why_not(result, outcome)]


def ratio_text(outcome: Outcome) -> str:
    """A difference of logarithms as a ratio."""
    assert outcome.difference is not None
    text = f"x{math.exp(outcome.difference):.3g}"
    if outcome.ci95:
        text += f" (x{math.exp(outcome.ci95[0]):.3g} to x{bounded_exp(outcome.ci95[1]):.3g})"
    return text


def p_text(outcome: Outcome) -> str:
    if outcome.p is None:
        return "-"
    rests_on = f"{outcome.effective:.0f} independent " if outcome.paired_over == "sequences" else ""
    return f"{outcome.p:.2g} over {rests_on}{outcome.paired_over}"


def why_not(result: TableResult, outcome: Outcome) -> str:
    """What can be said of a claim that does not hold: noise, or the budget or the claim itself."""
    if outcome.verdict == "fails":
        seen = result.provenance["steps"] * result.provenance["tokens_per_step"] / 1e6
        paper = PAPER_TOKENS[result.table.corpus] / 1e9
        budgets = f"{seen:,.1f} million tokens; the paper's runs saw {paper:,.0f} billion"
        return f"budget or claim: clearly otherwise after {budgets}"
    if outcome.verdict == "undecided" and outcome.p is not None:
        enough = f"about {outcome.needed:,}" if outcome.needed else "not even 1,000"
        return f"noise: {enough} {outcome.paired_over} would settle a difference of this size"
    return "noise: one seed settles nothing here" if outcome.verdict == "undecided" else ""


def measured_notes(result: TableResult) -> list[str]:
    """What the measurements themselves have to say, each once, with the rows it is about."""
    about: dict[str, list[str]] = {}
    for row in result.table.rows:
        for cell in result.cells[row.id].values():
            for note in cell.notes:
                titles = about.setdefault(note, [])
                if row.title not in titles:
                    titles.append(row.title)
    everyone = len(result.table.rows)
    return [note if len(titles) == everyone else f"{'; '.join(titles)}: {note}" for note, titles in about.items()]


def summary(provenance: Mapping[str, Any]) -> str:
    seeds = len(provenance["seeds"])
    return (
        f"Scale `{provenance['scale']}`: {provenance['description']}. {provenance['steps']:,} steps of "
        f"{provenance['tokens_per_step']:,} tokens for every row, {seeds} seed{'s' if seeds > 1 else ''}; intervals "
        + ("are 95% over seeds." if seeds > 1 else "are 95% within the one seed, over test sequences or batches.")
    )


def facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    corpora = "; ".join(f"{name}: {source}" for name, source in provenance["corpora"].items())
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    return [
        ("command", f"`{provenance['command']}`"),
        ("text", corpora),
        ("network and training", ", ".join(f"{key} = {value}" for key, value in provenance["settings"].items())),
        ("versions", versions),
        ("machine", provenance["machine"]),
        (
            "trainings",
            f"{provenance['trainings']}, those shared with other tables included; "
            f"{provenance['seconds'] / 60:.0f} minutes in all, {provenance['jobs']} at a time",
        ),
    ]
