"""The published tables as data: rows to train, what to measure, and the figures in print."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

from bd3cli.errors import InputError, did_you_mean

Kind = Literal["likelihood", "best-of", "zero-shot", "length-stats", "sample-quality"]
Objective = Mapping[str, Any]  # keys of a recipe's ``objective`` section


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        id: short name, used by claims; unique in its table.
        label, group: what a reader sees; rows of one group stand under one heading.
        objective: the objective trained (last); None for a row of the data themselves.
        pretrain: the objective trained first, or None.
        candidates: alternatives to finetune under, each with a ``label``; the best on validation stands.
        paper, reproduction: published figures by measure; the reproduction printed some twice.
    """

    id: str
    label: str
    group: str = ""
    objective: Objective | None = None
    pretrain: Objective | None = None
    candidates: tuple[Mapping[str, Any], ...] = ()
    paper: Mapping[str, float] = field(default_factory=dict)
    reproduction: Mapping[str, float | list[float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Label with the group it stands under."""
        return f"{self.group}, {self.label}" if self.group else self.label


@dataclass(frozen=True)
class Claim:
    """`first` is below (``<``) or equal to (``=``) `second` in `measure`."""

    measure: str
    first: str
    relation: Literal["<", "="]
    second: str


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        corpus: what its models train on.
        measures: its columns.
        claims: the orderings its authors read from it.
        notes: where a published number does not mean what its label says.
    """

    name: str
    title: str
    source: str
    corpus: str
    kind: Kind
    measures: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]

    def row(self, id: str) -> Row:
        return next(row for row in self.rows if row.id == id)


ORDER = (
    "single-token", "clipped-schedules", "lm1b-families", "owt-families", "zero-shot", "length-stats",
    "sample-quality", "noise-schedules", "gaussian-schedules", "bimodal-pretraining", "reweighted-losses",
)  # fmt: skip


def table_names() -> tuple[str, ...]:
    """Every table, in the order of the paper and then of its extensions."""
    return ORDER


@cache
def load_table(name: str) -> Table:
    """The table called `name`.

    Raises:
        InputError: unknown name, with the closest one.
    """
    if name not in ORDER:
        raise InputError(f"There is no table {name!r}.{did_you_mean(name, ORDER)} Tables: {', '.join(ORDER)}.")
    text = (resources.files("bd3cli") / "reproduce" / "tables" / f"{name}.toml").read_text("utf-8")
    raw = tomllib.loads(text)
    stages = raw.get("stages", {})
    rows = tuple(_row(entry, stages) for entry in raw["rows"])
    ids = [row.id for row in rows]
    assert len(set(ids)) == len(ids), f"{name}: row ids repeat"
    return Table(
        name=name,
        title=raw["title"],
        source=raw["source"],
        corpus=raw["corpus"],
        kind=raw.get("kind", "likelihood"),
        measures=tuple(raw["measures"]),
        rows=rows,
        claims=tuple(claim for text in raw.get("claims", ()) for claim in parse_claims(text, ids)),
        notes=tuple(raw.get("notes", ())),
    )


def parse_claims(text: str, ids: list[str]) -> list[Claim]:
    """``"ppl: a < b < c"`` to the claims about neighbours, a < b and b < c."""
    measure, _, chain = text.partition(":")
    words = chain.split()
    names, relations = words[::2], words[1::2]
    assert len(names) == len(relations) + 1, f"not a claim: {text!r}"
    assert set(relations) <= {"<", "="}, f"not a claim: {text!r}"
    assert set(names) <= set(ids), f"unknown rows in {text!r}"
    return [
        Claim(measure.strip(), first, "<" if relation == "<" else "=", second)
        for first, relation, second in zip(names[:-1], relations, names[1:], strict=True)
    ]


def _row(entry: Mapping[str, Any], stages: Mapping[str, Objective]) -> Row:
    pretrain = entry.get("pretrain")
    return Row(
        id=entry["id"],
        label=entry["label"],
        group=entry.get("group", ""),
        objective=entry.get("objective"),
        pretrain=stages[pretrain] if pretrain else None,
        candidates=tuple(entry.get("candidates", ())),
        paper=entry.get("paper", {}),
        reproduction=entry.get("reproduction", {}),
    )
