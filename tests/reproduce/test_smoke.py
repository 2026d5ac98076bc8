"""Two published tables, whole, at the smallest scale with a third of its steps, as a user runs them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from bd3cli.reproduce.scales import SCALES


def test_two_tables_at_the_smallest_scale(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "smoke", replace(SCALES["smoke"], steps=20))
    names = ("single-token", "lm1b-families")
    outcome = cli("reproduce", "run", *names, "--scale", "smoke", "--jobs", "1", "--out", tmp_path, "--json")
    assert outcome.code == 0, outcome.err
    tables = {table["table"]: table for table in json.loads(outcome.out)["tables"]}
    assert {name: len(table["rows"]) for name, table in tables.items()} == {"single-token": 4, "lm1b-families": 6}
    for table in tables.values():
        values = [row["ours"]["ppl"]["value"] for row in table["rows"]]
        assert all(1 < value < 300 for value in values)  # 256 bytes and two marks: a uniform guess has 257
        assert len(set(values)) == len(values)  # every cell is a training of its own
        assert all(claim["verdict"] != "no data" for claim in table["claims"])
        page = (tmp_path / f"{table['table']}.md").read_text()
        assert "slice of the embedded corpus in place of lm1b" in page
        assert all(row["label"] in page for row in table["rows"])
    shared = [{row["id"]: row["ours"]["ppl"]["value"] for row in table["rows"]}["ar"] for table in tables.values()]
    assert shared[0] == shared[1]
    assert math.isfinite(tables["single-token"]["seconds"])
    assert len(list((tmp_path / "runs").iterdir())) == 4 + 6  # ar is trained once, and MDLM's first half besides
