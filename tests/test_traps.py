"""The page of known traps names tests that exist; and the traps that are about rows of tables."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def test_every_test_the_page_names_exists() -> None:
    page = (REPOSITORY / "docs" / "traps.md").read_text()
    named = re.findall(r"`([\w/.-]+\.py)::(\w+)`", page)
    assert len(named) >= 15
    for file, name in named:
        assert re.search(rf"^def {name}\(", (REPOSITORY / file).read_text(), re.MULTILINE), f"{file}::{name}"
    items = re.split(r"^\d+\. ", page, flags=re.MULTILINE)[1:]
    assert len(items) == 9
    assert all("::test_" in item for item in items)


def test_every_row_names_its_checkpoint_and_steps_and_one_rule_chooses_them(
    cli, trained: Path, trained_ar: Path, tmp_path: Path
) -> None:
    """`best` is the checkpoint with the lowest validation for every row, `last` the newest; the row says which."""
    for rule in ("best", "last"):
        rows = cli("eval", trained, trained_ar, "--checkpoint", rule, "--sequences", 4, "--json").json["rows"]
        for row, run in zip(rows, (trained, trained_ar), strict=True):
            folder = run / "checkpoints"
            newest = max(p.name for p in folder.iterdir() if p.is_dir())
            best = json.loads((folder / "best.json").read_text())["checkpoint"]
            assert row["checkpoint"] == (best if rule == "best" else newest)
            assert row["step"] == int(row["checkpoint"].removeprefix("step-"))
    # a run whose best is an earlier checkpoint: the two rules give two rows
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    last = max((copy / "checkpoints").glob("step-*"))
    shutil.copytree(last, last.with_name("step-99999999"))
    names = [
        cli("eval", copy, "--checkpoint", rule, "--sequences", 4, "--json").json["checkpoint"]
        for rule in ("best", "last")
    ]
    assert names == [last.name, "step-99999999"]


def test_the_table_is_printed_from_the_rows_of_the_json(cli, trained: Path, trained_ar: Path) -> None:
    """Each line holds the family, block size and perplexity of its own run."""
    options = (trained, trained_ar, "--sequences", 8)
    rows = cli("eval", *options, "--json").json["rows"]
    lines = cli("eval", *options).out.splitlines()
    for row in rows:
        (line,) = [line for line in lines if line.startswith(row["run"] + " ") and f" {row['family']} " in line]
        assert line.split()[1:4] == [row["family"], str(row["block_size"]), f"{row['ppl']:.4g}"]
