"""The paper's protocol as commands: a million steps of 512 sequences are not trained here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from bd3cli.reproduce.tables import Objective, Row, Table

BASE = {"lm1b": "lm1b", "openwebtext": "owt"}  # the shipped recipes that hold the protocol
PRETRAINING, FINETUNING = 850_000, 150_000  # Arriola et al. 2025, section 6
LAUNCH = "torchrun --nproc-per-node 8 -m bd3cli"
OPTIONS = {
    "family": "--family", "block_size": "--block-size", "masking": "--masking", "schedule": "--schedule",
    "weight": "--weight", "clip": "--clip",
}  # fmt: skip


def commands(table: Table) -> list[str]:
    """The lines of a shell script: every training once, then what measures the rows."""
    lines = [f"# {table.name}: {table.title} ({table.source})"]
    measured: list[str] = []
    for row in table.rows:
        measured += [_train(table, objective, row.pretrain, lines) for objective in _alternatives(row)]
    return [*lines, *_measure(table, list(dict.fromkeys(measured))), ""]


def _train(table: Table, objective: Objective, pretrain: Objective | None, lines: list[str]) -> str:
    """Append the trainings of one row that are not there yet; the run to measure."""
    recipe = BASE[table.corpus]
    if pretrain is None:
        out = _name(recipe, objective, "")
        line = f"{LAUNCH} train {recipe} {_options(objective)} --out {out}"
    else:
        start = _name(recipe, pretrain, f"-{PRETRAINING // 1000}k")
        first = f"{LAUNCH} train {recipe} {_options(pretrain)} --steps {PRETRAINING} --out {start}"
        if first not in lines:
            lines.append(first)
        out = _name(recipe, objective, f"-from-{start.removeprefix('runs/')}")
        line = f"{LAUNCH} finetune {start} {_options(objective)} --steps {FINETUNING} --out {out}"
    if line not in lines:
        lines.append(line)
    return out


def _measure(table: Table, runs: list[str]) -> list[str]:
    listed = " ".join(runs)
    if table.kind == "zero-shot":
        return [f"bd3cli zeroshot {listed}"]
    if table.kind == "length-stats":
        return [f"bd3cli length-stats --data {table.corpus} --tokenizer gpt2"] + [
            f"bd3cli length-stats --run {run} --num 500 --max-length 131072" for run in runs
        ]
    if table.kind == "sample-quality":
        return [
            f"bd3cli sample {run} --num 300 --length {length} --nucleus 0.9 --judge hf:gpt2-large --json"
            for run in runs
            for length in (1024, 2048)
        ]
    return [f"bd3cli eval {listed}"]


def _alternatives(row: Row) -> list[dict[str, Any]]:
    if row.objective is None:
        return []
    changes = [{k: v for k, v in c.items() if k != "label"} for c in row.candidates] or [{}]
    return [{**row.objective, **change} for change in changes]


def _options(objective: Mapping[str, Any]) -> str:
    words = []
    for key, value in objective.items():
        text = ",".join(f"{x:g}" for x in value) if isinstance(value, list) else str(value).lower()
        words += [OPTIONS[key], text] if key in OPTIONS else ["--set", f"objective.{key}={text}"]
    return shlex.join(words)


def _name(recipe: str, objective: Mapping[str, Any], suffix: str) -> str:
    words = [recipe]
    for value in objective.values():
        text = "-".join(f"{x:g}" for x in value) if isinstance(value, list) else str(value).lower()
        words.append("".join(c if c.isalnum() or c in ".-" else "-" for c in text))
    return "runs/" + "-".join(words) + suffix
