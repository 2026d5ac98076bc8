"""Intervals of dependent sequences, against known processes: coverage, closed forms, and what independent data cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import signal, stats

from bd3cli.bench.coverage import bench_intervals
from bd3cli.errors import InputError
from bd3cli.evaluation import Likelihood, compare
from bd3cli.evaluation.dependence import frequencies, periodogram
from bd3cli.evaluation.intervals import Mean, bounded_exp, mean_of, ratio_of_sums


def documents(rng: np.random.Generator, n: int, length: int, between: float = 0.5) -> np.ndarray:
    """Values [n] of text whose documents have `length` sequences and a difficulty of their own."""
    levels = np.repeat(rng.normal(0, between, n // length + 2), length)
    start = rng.integers(length)
    return levels[start : start + n] + rng.normal(0, 1, n)


def independent_half_width(values: np.ndarray) -> float:
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def covered(values: list[np.ndarray], truth: float = 0.0) -> tuple[float, float]:
    """Share of intervals over `truth`: the new ones, and those that take sequences for independent."""
    new = [abs(ratio_of_sums(v, np.ones(len(v))).value - truth) < ratio_of_sums(v, np.ones(len(v))).half_width
           for v in values]  # fmt: skip
    old = [abs(v.mean() - truth) < independent_half_width(v) for v in values]
    return float(np.mean(new)), float(np.mean(old))


@pytest.mark.parametrize(("n", "length"), [(1000, 50), (4000, 160)])
def test_long_documents_are_covered_where_independence_is_not(n: int, length: int) -> None:
    rng = np.random.default_rng(n)
    new, old = covered([documents(rng, n, length) for _ in range(200)])
    assert 0.9 <= new <= 0.98
    assert old < 0.55


def test_documents_shorter_than_a_context_lose_nothing() -> None:
    """On independent sequences the interval covers, and is at most 10% wider than Student's."""
    rng = np.random.default_rng(7)
    for n in (64, 2000):
        values = [rng.normal(0, 1, n) for _ in range(200)]
        new, _ = covered(values)
        wider = [ratio_of_sums(v, np.ones(n)).half_width / independent_half_width(v) for v in values]
        assert 0.92 <= new <= 0.98
        assert 1.0 <= np.mean(wider) <= 1.1
        assert np.median(wider) == pytest.approx(1.0)


def test_the_standard_error_is_that_of_an_autoregressive_process() -> None:
    """For v_t = a v_(t-1) + e_t the variance of the mean is var(v) / n times (1 + a) / (1 - a), at large n."""
    rng, a, n = np.random.default_rng(3), 0.9, 20_000
    errors = [
        ratio_of_sums(signal.lfilter([1], [1, -a], rng.normal(0, 1, n + 500))[500:], np.ones(n)).stderr
        for _ in range(40)
    ]
    expected = math.sqrt((1 + a) / (1 - a) / (1 - a * a) / n)
    assert np.mean(errors) == pytest.approx(expected, rel=0.1)


def test_the_effective_number_is_what_independent_sequences_would_need() -> None:
    rng = np.random.default_rng(5)
    values = documents(rng, 4000, 160)
    found = ratio_of_sums(values, np.ones(4000))
    assert found.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(found.effective))
    assert found.effective < 400
    shuffled = ratio_of_sums(rng.permutation(values), np.ones(4000))
    assert (shuffled.effective, shuffled.df) == (4000, 3999)
    assert shuffled.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(4000))


def test_all_frequencies_are_the_usual_variance() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50)
    residual = values - values.mean()
    assert periodogram(residual).sum() == pytest.approx(np.square(residual).sum())
    assert periodogram(residual).mean() == pytest.approx(values.var(ddof=1))
    assert frequencies(np.ones(49)) == 49
    assert frequencies(np.zeros(49)) == 49


@pytest.mark.parametrize("corner", [10, 30, 100])
def test_the_corner_of_a_spectrum_is_found(corner: int) -> None:
    """Corners are tried in steps of a factor sqrt(2)."""
    j = np.arange(1, 4000)
    assert corner / 2**0.25 <= frequencies(1 + 10 / np.sqrt(1 + (j / corner) ** 2)) <= corner * 2**0.5


def test_a_difference_knows_of_its_two_terms_how_far_documents_reach() -> None:
    """Noise of the estimator can hide in the difference what either level shows."""
    rng = np.random.default_rng(11)
    found = {"difference": [], "with its terms": []}
    for _ in range(200):
        level, own = documents(rng, 300, 50, between=2.0), documents(rng, 300, 50, between=0.2)
        for name, beside in (("difference", ()), ("with its terms", (level, level - own))):
            mean = ratio_of_sums(own, np.ones(300), beside)
            found[name].append(mean.ci95[0] < 0 < mean.ci95[1])
    assert np.mean(found["difference"]) < 0.88 < 0.92 <= np.mean(found["with its terms"]) <= 0.98


def test_a_heavy_tail_is_said_and_widens() -> None:
    values = np.zeros(100)
    values[17] = 50.0
    found = mean_of(values)
    kurtosis = stats.kurtosis(values, fisher=False)
    assert found.df == pytest.approx(200 / (kurtosis - 1))
    assert found.df < 3
    assert "heavy tail" in found.notes[0]
    assert mean_of(np.random.default_rng(0).normal(0, 1, 100)).notes == ()


def test_a_variance_has_a_positive_interval() -> None:
    wild = Mean(2469.0, 2246.0, 100, 99, 100)
    assert wild.ci95[0] < 0
    low, high = wild.positive_ci95
    assert 0 < low < 2469 < high
    assert low * high == pytest.approx(2469.0**2)
    known = Mean(100.0, 0.1, 100, 99, 100)
    assert known.positive_ci95 == pytest.approx(known.ci95, rel=1e-5)


def test_few_sequences_and_short_texts_say_so() -> None:
    rng = np.random.default_rng(2)
    few = ratio_of_sums(rng.normal(0, 1, 8), np.ones(8))
    assert "8 sequences are too few" in few.notes[-1]
    drift = ratio_of_sums(rng.normal(0, 1, 400) + np.linspace(0, 5, 400), np.ones(400))
    assert "as far as this text reaches" in drift.notes[-1]
    assert drift.df == 3
    constant = ratio_of_sums(np.full(40, 2.0), np.ones(40))
    assert (constant.value, constant.stderr, constant.effective) == (2.0, 0.0, 40)


def made(values: np.ndarray) -> Likelihood:
    tokens = np.full(len(values), 10)
    return Likelihood(
        nelbo=values, tokens=tokens, bytes=0, estimator="count", exact=False, forward_passes=1,
        sequences=list(range(len(values))), fingerprint="a", per_seed=values[None],
    )  # fmt: skip


def test_names_say_their_unit() -> None:
    result = made(np.random.default_rng(4).normal(20, 3, 100))
    assert result.ppl == math.exp(result.nats_per_token)
    assert result.ppl_ci95 == tuple(math.exp(end) for end in result.nats_per_token_ci95)
    summary = result.summary()
    assert summary["ci95"] == list(result.ppl_ci95)
    assert summary["nats_per_token_ci95"] == list(result.nats_per_token_ci95)
    assert summary["effective_n"] == result.mean.effective
    assert bounded_exp(1e9) == math.exp(700)
    assert not hasattr(result, "ci95")


def test_uniform_with_few_draws_says_that_its_tail_is_heavy() -> None:
    from dataclasses import replace

    result = made(np.random.default_rng(4).normal(20, 3, 100))
    assert not result.mean.notes
    assert "use count" in replace(result, estimator="uniform").mean.notes[-1]
    assert not replace(result, estimator="uniform", forward_passes=8).mean.notes


def test_coverage_is_counted() -> None:
    """`bench intervals` against a count by hand, on windows of long documents."""
    rng = np.random.default_rng(9)
    first, second = made(documents(rng, 20_000, 50, 1.0) + 20), made(documents(rng, 20_000, 50, 1.0) + 21)
    level, _, pair = bench_intervals(["a", "b"], [first, second], [500])
    assert (level.name, pair.name, pair.windows) == ("a", "a - b", 40)
    means = [ratio_of_sums(first.nelbo[i : i + 500], first.tokens[i : i + 500]) for i in range(0, 20_000, 500)]
    truth = first.nelbo.sum() / first.tokens.sum()
    assert level.covered == np.mean([m.ci95[0] <= truth <= m.ci95[1] for m in means])
    assert level.covered > 0.85 > level.covered_if_independent
    assert level.true_stderr_over_independent == pytest.approx(
        np.std([m.value for m in means], ddof=1)
        / math.sqrt(np.mean([np.var(first.nelbo[i : i + 500] / 10, ddof=1) / 500 for i in range(0, 20_000, 500)]))
    )
    assert pair.truth == pytest.approx(compare(first, second).nats_per_token.value)
    with pytest.raises(InputError, match="make 4 windows of 5000"):
        bench_intervals(["a"], [first], [5000])
    with pytest.raises(InputError, match="at least 2 sequences, not 0"):
        bench_intervals(["a"], [first], [0])
