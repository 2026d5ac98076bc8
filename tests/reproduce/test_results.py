"""The committed results are what the tool wrote: pages follow from the documents, and these from computations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bd3cli.reproduce.claims import judge
from bd3cli.reproduce.report import TableResult, markdown

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "cpu"
NAMES = sorted(path.stem for path in RESULTS.glob("*.json"))


def read(name: str) -> TableResult:
    return TableResult.from_dict(json.loads((RESULTS / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_its_document_says(name: str) -> None:
    assert markdown(read(name), picture=f"{name}.png") == (RESULTS / f"{name}.md").read_text()
    assert (RESULTS / f"{name}.png").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_follow_from_the_values_by_seed(name: str) -> None:
    result = read(name)
    assert [outcome.claim for outcome in result.outcomes] == list(result.table.claims)
    for outcome in result.outcomes:
        first, second = (
            result.cells[id][outcome.claim.measure].raw for id in (outcome.claim.first, outcome.claim.second)
        )
        again = judge(outcome.claim, first, second)
        assert again.verdict == outcome.verdict
        assert again.p == pytest.approx(outcome.p)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_a_measurement_or_says_why_not(name: str) -> None:
    result = read(name)
    seeds = len(result.provenance["seeds"])
    for row in result.table.rows:
        for cell in result.cells[row.id].values():
            assert len(cell.raw) in (0, seeds)
            assert cell.raw or "no data" in " ".join(cell.notes)


def test_the_overview_counts_the_verdicts_of_every_page() -> None:
    assert NAMES
    overview = (RESULTS.parent / "index.md").read_text()
    for name in NAMES:
        verdicts = [outcome.verdict for outcome in read(name).outcomes]
        counts = " | ".join(str(verdicts.count(verdict)) for verdict in ("holds", "undecided", "fails"))
        assert f"| [{name}](cpu/{name}.md) | {counts} |" in overview
        assert f"cpu/{name}\n" in overview  # it has a page of the documentation
