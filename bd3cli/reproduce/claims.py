"""Test the orderings that a table's authors read from it on the values measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bd3cli.evaluation.intervals import Mean, mean_of, ratio_of_sums
from bd3cli.reproduce.tables import Claim

SIGNIFICANT = 0.05
Verdict = Literal["holds", "fails", "undecided", "no data"]


@dataclass(frozen=True)
class Outcome:
    """What became of a claim.

    Attributes:
        verdict: ``holds`` or ``fails`` when the difference is significant at 5%; ``undecided`` otherwise.
            A claim of equality ``holds`` while no difference is significant.
        difference: mean of first minus second: nats per token for perplexities, logarithms for variances, else the
            measure's unit.
        ci95: its 95% interval, None where one value a row leaves none.
        p: two-sided p-value, None with the interval.
        paired_over: what the pairs are: ``seeds`` or ``sequences``; empty where there is no test.
        effective: how many independent pairs the interval rests on.
        needed: of an undecided claim, how many pairs would make a difference of this size significant.
    """

    claim: Claim
    verdict: Verdict
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p: float | None = None
    paired_over: str = ""
    needed: int | None = None
    effective: float | None = None


def judge(
    claim: Claim,
    first: Sequence[float],
    second: Sequence[float],
    sequences: tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]] | None = None,
) -> Outcome:
    """Test a claim on paired values, one a seed.

    Args:
        first, second: values of both rows by seed, seeds in the same order; perplexities as nats per token and
            variances as logarithms.
        sequences: for one seed, ``nelbo`` and ``tokens`` of every test sequence under either row.
    """
    if not first or not second:
        return Outcome(claim, "no data")
    assert len(first) == len(second), "rows of one table are trained with the same seeds"
    differences = np.subtract(first, second)
    if len(differences) > 1:
        return _decided(claim, mean_of(differences), "seeds")
    if sequences is None:
        return Outcome(claim, "undecided", float(differences[0]))
    a, b = sequences
    assert list(a["tokens"]) == list(b["tokens"]), "rows are compared on the same test sequences"
    tokens = np.asarray(a["tokens"])
    difference = ratio_of_sums(np.subtract(a["nelbo"], b["nelbo"]), tokens, beside=(a["nelbo"], b["nelbo"]))
    return _decided(claim, difference, "sequences")


def _decided(claim: Claim, difference: Mean, pairs: str) -> Outcome:
    significant = difference.p_value < SIGNIFICANT
    verdict: Verdict
    if claim.relation == "=":
        verdict = "fails" if significant else "holds"
    elif not significant:
        verdict = "undecided"
    else:
        verdict = "holds" if difference.value < 0 else "fails"
    needed = pairs_needed(difference) if verdict == "undecided" else None
    p, effective = difference.p_value, difference.effective
    return Outcome(claim, verdict, difference.value, difference.ci95, p, pairs, needed, effective)


def pairs_needed(difference: Mean, most: int = 1000) -> int | None:
    """The fewest pairs that would make a mean of this size and spread significant; None where `most` would not."""
    spread = difference.stderr * math.sqrt(difference.n)
    counts = range(difference.n, most + 1)

    def with_pairs(n: int) -> Mean:
        return Mean(difference.value, spread / math.sqrt(n), n, difference.df + n - difference.n, n)

    return next((n for n in counts if with_pairs(n).p_value < SIGNIFICANT), None)
