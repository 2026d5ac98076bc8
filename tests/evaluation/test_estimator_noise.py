"""What lowers the Monte Carlo error leaves the mean alone: the control variate, and the spread over sequences."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import bd3cli
from bd3cli.errors import InputError
from bd3cli.evaluation import likelihood, make_estimator
from bd3cli.evaluation.control import SCALE, STRENGTH, NgramControl
from bd3cli.evaluation.subsets import choose_sequences, fixed_order, spread

VOCAB = 11


class Split:
    """Contexts in memory with some structure for an n-gram to find."""

    fingerprint = "made up"

    def __init__(self, n: int, length: int = 16) -> None:
        rng = np.random.default_rng(2)
        steps = rng.choice([1, 1, 1, 2, 5], (n, length))
        self.ids = steps.cumsum(1) % (VOCAB - 1)
        self.length = length

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, indices) -> np.ndarray:
        return self.ids[np.asarray(indices)]

    def valid(self, indices) -> np.ndarray:
        return np.ones_like(self.ids[np.asarray(indices)], dtype=bool)


@pytest.mark.parametrize("n", [3, 4])
def test_every_token_has_mean_weight_one_by_enumeration(n: int) -> None:
    """The law the control variate rests on, for `count`: sum over k and k-subsets of P * (n/k) * [i in subset] = 1.

    And its consequence: for any b the correction has mean zero over all masks, exactly.
    """
    b = np.random.default_rng(0).normal(size=n)
    mean_weight, mean_correction = np.zeros(n), 0.0
    for k in range(1, n + 1):
        for subset in itertools.combinations(range(n), k):
            probability = 1 / n / math.comb(n, k)
            weight = np.zeros(n)
            weight[list(subset)] = n / k
            mean_weight += probability * weight
            mean_correction += probability * (b * (1 - weight)).sum()
    np.testing.assert_allclose(mean_weight, 1)
    assert mean_correction == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("name", "draws"), [("count", 1), ("count", 3), ("uniform", 1), ("uniform", 2), ("exact", 1)])
def test_every_token_has_mean_weight_one_in_the_estimators_themselves(name: str, draws: int) -> None:
    """Over many seeds, each maskable token's total weight averages 1, with BOS in the first block and without."""
    free = torch.ones(4, 8, dtype=torch.bool)
    free[:, 0] = False
    seeds = 1 if name == "exact" else 300
    totals = []
    for seed in range(seeds):
        weight = torch.zeros(4, 8, dtype=torch.float64)
        for draw in make_estimator(name, 4, 4, draws, seed).draws([0, 1, 2, 3], free):
            weight += draw.mask * draw.noise.weight.repeat_interleave(4, 1)
        totals.append(weight)
    every = torch.stack(totals)[:, free]  # [seeds, tokens]
    if name == "exact":
        torch.testing.assert_close(every, torch.ones_like(every))
        return
    error = every.std(0) / math.sqrt(seeds)
    assert ((every.mean(0) - 1).abs() < 4.5 * error).all()
    assert (error > 0).all()


@pytest.mark.parametrize("family", ["bd3lm", "mdlm"])
def test_the_control_variate_leaves_the_mean_and_lowers_the_noise(make_model, family: str) -> None:
    """Of a network that knows the text's structure: its own n-gram statistics as output bias."""
    split, model = Split(24), make_model(family)
    with torch.no_grad():
        frequency = torch.bincount(torch.from_numpy(split.ids).flatten(), minlength=VOCAB).double()
        frequency[1:4] *= 6  # some tokens are easy, others hard
        model.output_layer.linear.bias.copy_(((frequency + 1) / frequency.sum()).log())
    plain = likelihood(model, split, seeds=24)
    control = likelihood(model, split, seeds=24, control="ngram")
    assert (plain.control, control.control) == ("none", "ngram")
    error = math.hypot(plain.mc_stderr, control.mc_stderr)
    assert abs(plain.nats_per_token - control.nats_per_token) < 4 * error
    assert not np.array_equal(plain.nelbo, control.nelbo)


def test_exact_likelihoods_take_no_control(make_model) -> None:
    split = Split(6)
    for family, options in (("ar", {}), ("bd3lm", {"estimator": "exact"})):
        plain = likelihood(make_model(family), split, **options)
        asked = likelihood(make_model(family), split, control="ngram", **options)
        assert asked.control == "none"
        assert np.array_equal(plain.nelbo, asked.nelbo)
    with pytest.raises(InputError, match="no control 'ngrm'"):
        likelihood(make_model(), split, control="ngrm")


def test_the_ngram_is_interpolated_from_discounted_counts() -> None:
    """By hand, for the token in the middle of a split of one repeated pattern."""

    class Tiny(Split):
        def __init__(self) -> None:
            self.ids, self.length = np.array([[0, 1, 2, 0, 1, 2]] * 2), 6

    b = NgramControl.fit(Tiny(), 3).baseline(torch.tensor([[0, 1, 2, 0, 1, 2]]))
    # token 1 at position 4: 4 of 12 tokens; after 0: 4 of 4; after (2, 0): 2 of 2
    p = (3 + STRENGTH / 3) / (11 + STRENGTH)
    p = (3 + STRENGTH * p) / (3 + STRENGTH)
    p = (1 + STRENGTH * p) / (1 + STRENGTH)
    assert b[0, 4].item() == pytest.approx(-SCALE * math.log(p))


def test_on_a_trained_model_the_control_lowers_the_error_of_every_estimator(trained: Path) -> None:
    run = bd3cli.load(str(trained))
    split = run.split("validation")

    def noise(**options: object) -> float:
        per_seed = run.evaluate(split, sequences=32, seeds=24, **options).per_seed
        return float(np.sqrt(per_seed.var(0, ddof=1).mean()))

    for estimator in ("count", "uniform"):
        assert noise(estimator=estimator, control="ngram") < 0.97 * noise(estimator=estimator)


def test_the_spread_is_uniform_and_even_over_every_subset() -> None:
    total = 500
    values = np.stack([spread(total, seed, "x").numpy() for seed in range(400)])  # [seeds, total]
    for index in (0, 17, 499):
        assert stats.kstest(values[:, index], "uniform").pvalue > 1e-3
    for n in (8, 50, 128):
        chosen = choose_sequences(total, n)
        for row in values[:20]:
            points = np.sort(row[chosen])
            gaps = np.diff(np.append(points, points[0] + 1))
            assert gaps.max() < 2.7 / n  # of independent points: about ln(n) / n, and more


def test_a_subset_is_the_beginning_of_a_larger_one() -> None:
    assert set(choose_sequences(100, 10)) < set(choose_sequences(100, 30))
    assert sorted(fixed_order(100).tolist()) == list(range(100))


def test_levels_are_shared_out_evenly_when_a_subset_is_evaluated() -> None:
    """One block a sequence: over 64 of 1,000 sequences the numbers of masked tokens come up equally often."""
    chosen = choose_sequences(1000, 64)
    off = []
    for seed in range(10):
        draw = make_estimator("count", 8, total=1000, seed=seed).draws(chosen, torch.ones(64, 8, dtype=torch.bool))[0]
        counts = torch.bincount(draw.mask.sum(1), minlength=9)[1:]
        assert counts.sum() == 64
        off.append((counts - 8).double())
    assert max(float(each.abs().max()) for each in off) <= 2
    assert float(torch.cat(off).square().mean()) < 1  # independent counts: 64 x 1/8 x 7/8 = 7
