"""Tests of orderings against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bd3cli.reproduce.claims import judge
from bd3cli.reproduce.report import TableResult, claim_cells
from bd3cli.reproduce.tables import Claim, load_table

LESS, EQUAL = Claim("ppl", "a", "<", "b"), Claim("ppl", "a", "=", "b")


def test_over_seeds_it_is_the_paired_t_test() -> None:
    a, b = [1.00, 1.10, 0.90, 1.05], [1.30, 1.45, 1.20, 1.33]
    outcome = judge(LESS, a, b)
    expected = stats.ttest_rel(a, b)
    assert outcome.p == pytest.approx(expected.pvalue)
    assert outcome.ci95 == pytest.approx(tuple(expected.confidence_interval()))
    assert (outcome.verdict, outcome.paired_over) == ("holds", "seeds")
    assert judge(LESS, b, a).verdict == "fails"
    assert judge(EQUAL, a, b).verdict == "fails"


def test_a_difference_in_the_noise_decides_nothing() -> None:
    a, b = [1.0, 1.2, 0.8], [1.1, 1.0, 0.9]
    assert judge(LESS, a, b).verdict == "undecided"
    assert judge(EQUAL, a, b).verdict == "holds"


def test_how_many_seeds_would_settle_it() -> None:
    a, b = [1.0, 1.2, 0.8, 1.0], [1.1, 1.15, 0.95, 1.0]
    needed = judge(LESS, a, b).needed
    assert needed is not None
    differences = np.subtract(a, b)
    scale = differences.std(ddof=1)

    def p(n: int) -> float:
        return float(2 * stats.t.sf(abs(differences.mean()) / (scale / np.sqrt(n)), n - 1))

    assert p(needed) < 0.05 <= p(needed - 1)
    assert judge(LESS, [1.0, 2.0, 3.0], [1.1, 1.9, 3.0]).needed is None  # the mean difference is zero
    assert judge(LESS, a, [x + 1 for x in a]).needed is None  # decided


def test_one_seed_is_paired_over_sequences_of_equal_length_like_a_t_test() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(100, 10, 40)
    b = a + rng.normal(5, 2, 40)
    tokens = [50] * 40
    rows = ({"nelbo": list(a), "tokens": tokens}, {"nelbo": list(b), "tokens": tokens})
    outcome = judge(LESS, [a.sum() / 2000], [b.sum() / 2000], rows)
    expected = stats.ttest_rel(a / 50, b / 50)
    assert outcome.difference == pytest.approx(float((a - b).mean() / 50))
    assert outcome.p == pytest.approx(expected.pvalue)
    assert (outcome.verdict, outcome.paired_over) == ("holds", "sequences")


def test_missing_and_single_values() -> None:
    assert judge(LESS, [], [1.0]).verdict == "no data"
    outcome = judge(LESS, [1.0], [2.0])
    assert (outcome.verdict, outcome.p, outcome.difference) == ("undecided", None, -1.0)
    with pytest.raises(AssertionError, match="same test sequences"):
        judge(LESS, [1.0], [2.0], ({"nelbo": [1], "tokens": [3]}, {"nelbo": [1], "tokens": [4]}))


def test_a_claim_that_does_not_hold_comes_with_what_can_be_said_of_it() -> None:
    table = load_table("lm1b-families")
    result = TableResult(table, {}, (), {"steps": 600, "tokens_per_step": 2048})
    less = Claim("ppl", "l4", "<", "l8")

    def why(first: list[float], second: list[float]) -> str:
        return claim_cells(result, judge(less, first, second))[-1]

    assert why([1.0, 1.1, 1.2], [2.0, 2.1, 2.3]) == ""
    assert why([2.0, 2.1, 2.3], [1.0, 1.1, 1.2]).startswith(
        "budget or claim: clearly otherwise after 1.2 million tokens"
    )
    assert why([1.0, 1.2, 0.8], [1.1, 1.0, 0.9]).startswith("noise: ")
    assert why([1.0], [2.0]) == "noise: one seed settles nothing here"
    assert why([], []) == ""
