"""Paired comparisons and Monte Carlo errors, against scipy and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bd3cli.evaluation import Likelihood, compare, compare_all, why_not_paired
from bd3cli.evaluation.compare import holm
from bd3cli.evaluation.intervals import Mean, mean_of, ratio_of_sums


def made(nelbo: np.ndarray, tokens: np.ndarray, **changes: object) -> Likelihood:
    plain = Likelihood(
        nelbo=nelbo, tokens=tokens, bytes=int(tokens.sum()), estimator="count", exact=False, forward_passes=1,
        sequences=list(range(len(nelbo))), fingerprint="aaaa", per_seed=nelbo[None],
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def pair() -> tuple[Likelihood, Likelihood]:
    rng = np.random.default_rng(1)  # one of about fourteen such pairs looks dependent by chance, as that of 0 does
    hard, tokens = rng.normal(100, 20, 40), np.full(40, 50)
    return made(hard + rng.normal(1, 2, 40), tokens), made(hard, tokens)


def test_with_equal_lengths_it_is_the_paired_t_test(pair) -> None:
    first, second = pair
    found = compare(first, second)
    reference = stats.ttest_rel(first.nelbo / 50, second.nelbo / 50)
    low, high = reference.confidence_interval(0.95)
    assert found.nats_per_token.p_value == pytest.approx(reference.pvalue)
    assert found.nats_per_token.ci95 == pytest.approx((low, high))
    assert found.nats_per_token.value == pytest.approx(first.nats_per_token - second.nats_per_token)
    assert found.bits_per_byte == pytest.approx(first.bits_per_byte - second.bits_per_byte)
    assert found.better == (first.nelbo < second.nelbo).mean()
    summary = found.summary()
    assert summary["ppl_ratio"] == pytest.approx(math.exp(first.nats_per_token) / math.exp(second.nats_per_token))


def test_pairing_sees_what_the_two_intervals_hide(pair) -> None:
    """Sequences differ by far more than the models do; their own intervals overlap, the paired one excludes zero."""
    first, second = pair
    assert first.nats_per_token_ci95[0] < second.nats_per_token_ci95[1]
    low, high = compare(first, second).nats_per_token.ci95
    assert 0 < low < high


def test_the_other_way_round_is_the_negative(pair) -> None:
    first, second = pair
    there, back = compare(first, second).nats_per_token, compare(second, first).nats_per_token
    assert there.value == -back.value
    assert there.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]))


def test_the_ratio_with_unequal_lengths_has_the_error_of_the_jackknife() -> None:
    """Linearisation against leaving each sequence out in turn: two roads to the same standard error."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(10, 100, 400)
    nats = tokens * rng.normal(2, 0.3, 400)
    left_out = (nats.sum() - nats) / (tokens.sum() - tokens)
    jackknife = math.sqrt(399 / 400 * ((left_out - left_out.mean()) ** 2).sum())
    found = ratio_of_sums(nats, tokens)
    assert found.value == nats.sum() / tokens.sum()
    assert found.stderr == pytest.approx(jackknife, rel=0.01)


def test_identical_runs_do_not_differ(pair) -> None:
    found = compare(pair[0], pair[0]).nats_per_token
    assert (found.value, found.stderr, found.p_value) == (0.0, 0.0, 1.0)
    assert Mean(0.1, 0.0, 5, 4, 5).p_value == 0.0


def test_other_tokens_are_not_paired_and_the_reason_is_named(pair) -> None:
    first, second = pair
    other = replace(second, fingerprint="bbbb")
    with pytest.raises(ValueError, match="different tokens"):
        compare(first, other)
    same = {"dataset": "x", "split": "test", "tokenizer": "bytes", "length": 128}
    assert why_not_paired(first, second) is None
    for change, words in (
        ({"tokenizer": "gpt2"}, "tokenizer bytes against gpt2"),
        ({"length": 64}, "length 128 against 64"),
        ({"dataset": "y"}, "dataset x against y"),
        ({}, "fingerprints aaaa and bbbb"),
    ):
        assert words in (why_not_paired(first, other, (same, same | change)) or "")
    fewer = replace(second, sequences=second.sequences[:-1])
    assert "40 against 39 sequences" in (why_not_paired(first, fewer) or "")


def test_every_pair_is_listed_and_p_values_know_how_many(pair) -> None:
    first, second = pair
    other = replace(second, fingerprint="bbbb", nelbo=second.nelbo * 2)
    rows = compare_all(["a", "b", "c"], [first, second, other], [{"length": 1}, {"length": 1}, {"length": 2}])
    assert [(r["a"], r["b"], r["paired"]) for r in rows] == [("a", "b", True), ("a", "c", False), ("b", "c", False)]
    assert rows[0]["p_holm"] == rows[0]["p_value"]
    assert rows[2]["reason"] == "other test tokens: length 1 against 2"
    assert rows[2]["diff_bits_per_byte"] == pytest.approx(-second.bits_per_byte)


def test_holm_by_hand_and_by_closure() -> None:
    """Of three hypotheses: the smallest p times 3, the next times 2, the last as it is, never decreasing."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    # Holm is the closure of Bonferroni tests: a hypothesis falls when every set it belongs to has a small p in it.
    p = [0.2, 0.001, 0.04, 0.012]
    for i, adjusted in enumerate(holm(p)):
        sets = [s for s in range(1, 16) if s >> i & 1]
        closed = max(min(1.0, s.bit_count() * min(p[j] for j in range(4) if s >> j & 1)) for s in sets)
        assert adjusted == pytest.approx(closed)
    assert holm([]) == []


def test_monte_carlo_error_is_that_of_the_mean_over_seeds() -> None:
    tokens = np.full(4, 10)
    per_seed = np.array([[8.0, 9, 10, 11], [9, 9, 9, 9], [10, 10, 10, 12]])
    result = made(per_seed.mean(0), tokens, per_seed=per_seed)
    totals = per_seed.sum(1) / 40
    assert result.mc_stderr == pytest.approx(stats.sem(totals))
    assert mean_of(totals).value == pytest.approx(result.nats_per_token)
    assert made(per_seed[0], tokens).mc_stderr is None
    assert replace(result, exact=True).mc_stderr == 0.0


def test_eval_of_several_runs_pairs_those_on_the_same_tokens(
    cli, trained: Path, trained_ar: Path, tmp_path: Path
) -> None:
    document = cli("eval", trained, trained_ar, "--sequences", 24, "--seeds", 3, "--json").json
    block, ar = document["rows"]
    (pair,) = document["paired"]
    assert block["fingerprint"] == ar["fingerprint"]
    assert (block["seeds"], block["forward_passes"]) == (3, 3)
    assert block["mc_stderr_nats_per_token"] > 0
    assert (ar["seeds"], ar["forward_passes"], ar["mc_stderr_nats_per_token"]) == (1, 1, 0.0)
    assert pair["diff_nats_per_token"] == pytest.approx(block["nats_per_token"] - ar["nats_per_token"])
    text = cli("eval", trained, trained_ar, "--sequences", 24, "--seeds", 3).out
    assert "paired by sequence" in text
    assert "± 0.0" in text
    assert "exact" in text


def test_the_same_run_on_other_tokens_is_not_paired(cli, trained: Path, tmp_path: Path) -> None:
    """A copy of the run that claims another packing has other test tokens, and the table says so."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    recipe = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(recipe.replace('context = "bos"', 'context = "bos-eos"'))
    outcome = cli("eval", trained, copy, "--sequences", 8)
    assert "not paired: other test tokens: context bos against bos-eos" in outcome.out
    assert "adjusted" not in outcome.out
    (pair,) = cli("eval", trained, copy, "--sequences", 8, "--json").json["paired"]
    assert not pair["paired"]
    assert pair["diff_bits_per_byte"] is not None
