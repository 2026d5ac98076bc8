"""Measured values, by seed, and what a table shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from bd3cli.evaluation.intervals import bounded_exp, mean_of

# Held as logarithms and shown as their exponentials: nats per token as perplexities, and variances, which are positive
# with a heavy tail, so that their ratios are what can be compared.
LOGARITHMIC = frozenset({"ppl", "gen_ppl", "gen_ppl_2l", "var_nelbo"})


class _Always(TypedDict):
    raw: float | None
    ci95: list[float] | None
    sequences: dict[str, list[float]] | None
    note: str


class StoredMeasurement(_Always, total=False):
    """A `Measurement` as plain values."""

    effective_n: float | None


@dataclass(frozen=True)
class Measurement:
    """One measure of one row under one seed.

    Attributes:
        raw: nats per token for a perplexity, the logarithm of a variance, else the value; None where there is no data.
        ci95: interval of `raw` within the seed (over sequences, batches or samples), where there is one.
        effective: how many independent ones it rests on, where that is known.
        sequences: ``nelbo`` and ``tokens`` of every test sequence, for paired tests.
        note: how it was measured, or why there is no data.
    """

    raw: float | None
    ci95: tuple[float, float] | None = None
    sequences: Mapping[str, Sequence[float]] | None = None
    note: str = ""
    effective: float | None = None

    def as_dict(self) -> StoredMeasurement:
        return {
            "raw": self.raw,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "sequences": None if self.sequences is None else {k: list(v) for k, v in self.sequences.items()},
            "note": self.note,
            "effective_n": self.effective,
        }

    @staticmethod
    def from_dict(raw: StoredMeasurement) -> Measurement:
        ci95 = raw["ci95"]
        interval = None if ci95 is None else (ci95[0], ci95[1])
        return Measurement(raw["raw"], interval, raw["sequences"], raw["note"], raw.get("effective_n"))


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        value: mean over seeds (of nats per token or of logarithms, as held); None for 'no data'.
        ci95: over seeds when there are several, else within the one seed; None where neither is known.
        interval_over: what the interval is over.
        effective: how many independent items the interval rests on, where that is known.
        raw: the values by seed, as they are tested.
        notes: without repeats.
    """

    value: float | None
    ci95: tuple[float, float] | None
    interval_over: str
    raw: tuple[float, ...]
    notes: tuple[str, ...] = ()
    sequences: Mapping[str, Sequence[float]] | None = field(default=None, repr=False)
    effective: float | None = None


def is_logarithmic(measure: str, kind: str) -> bool:
    """Whether a measure is held as a logarithm and shown as its exponential."""
    return measure in LOGARITHMIC or kind == "zero-shot"


def combine(measurements: Sequence[Measurement], logarithmic: bool) -> Cell:
    """The cell of one row and measure from its measurements, one a seed."""
    notes = tuple(dict.fromkeys(m.note for m in measurements if m.note))
    raw = tuple(m.raw for m in measurements if m.raw is not None)
    if not raw or len(raw) < len(measurements):
        return Cell(None, None, "", (), notes)
    show = bounded_exp if logarithmic else float
    if len(raw) > 1:
        mean = mean_of(raw)
        low, high = map(show, mean.ci95)
        return Cell(show(mean.value), (low, high), f"{len(raw)} seeds", raw, notes, effective=mean.effective)
    (only,) = measurements
    assert only.raw is not None
    ci95 = None if only.ci95 is None else (show(only.ci95[0]), show(only.ci95[1]))
    return Cell(show(only.raw), ci95, "within one seed" if ci95 else "", raw, notes, only.sequences, only.effective)
