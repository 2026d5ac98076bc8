"""Likelihood estimators: exactness, agreement, what must not reach them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import bd3cli
from bd3cli.diffusion.batch import maskable
from bd3cli.errors import InputError
from bd3cli.evaluation import likelihood, make_estimator
from bd3cli.evaluation.subsets import choose_sequences

VOCAB, MASK = 11, 10


@dataclass
class FakeSplit:
    """Contexts in memory; `short` makes the odd ones end early, as padded contexts do."""

    ids: np.ndarray
    short: int | None = None
    fingerprint: str = "made up"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def tokens(self, indices) -> np.ndarray:
        return self.ids[np.asarray(indices)]

    def valid(self, indices) -> np.ndarray:
        out = np.ones_like(self.ids, dtype=bool)
        if self.short is not None:
            out[1::2, self.short :] = False
        return out[np.asarray(indices)]


@pytest.fixture
def split() -> FakeSplit:
    return FakeSplit(np.random.default_rng(0).integers(0, MASK, (6, 16)))


def uniform_head(model):
    """The same network with all logits equal."""
    with torch.no_grad():
        model.output_layer.linear.weight.zero_()
        model.output_layer.linear.bias.zero_()
    return model


@pytest.mark.parametrize("short", [None, 7])
@pytest.mark.parametrize(
    ("family", "block_size", "estimator"),
    [("ar", 1, "count"), ("bd3lm", 1, "count"), ("bd3lm", 4, "count"), ("bd3lm", 4, "exact"), ("bd3lm", 16, "count"),
     ("mdlm", 16, "count"), ("bd3lm", 2, "exact")],
)  # fmt: skip
def test_uniform_logits_give_log_v_exactly(make_model, split, family, block_size, estimator, short) -> None:
    """log of the vocabulary without the mask token, whatever the draw of masks."""
    split.short = short
    model = uniform_head(make_model(family, block_size=block_size))
    result = likelihood(model, split, estimator=estimator, batch_size=4)
    np.testing.assert_allclose(result.nelbo / result.tokens, math.log(VOCAB - 1), rtol=1e-6)
    expected = [15, 15 if short is None else short - 1] * 3
    assert result.tokens.tolist() == expected


def test_uniform_logits_give_log_v_in_expectation_under_the_uniform_estimator(make_model, split) -> None:
    """With Bernoulli masks the number of terms is random; E[sum of weights] is the number of tokens.

    By quadrature over t of the enumerated masks of a block of 4: (1/(1-eps)) int w(t) E[masked | t] dt = 4.
    """
    t = torch.linspace(1e-3, 1, 20_001, dtype=torch.float64)
    masks = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.float64)
    prob = torch.stack([t ** m.sum() * (1 - t) ** (4 - m.sum()) for m in masks])  # [16, T]
    assert torch.trapezoid((prob * masks.sum(1)[:, None]).sum(0) / t, t).item() / (1 - 1e-3) == pytest.approx(4)
    result = likelihood(uniform_head(make_model()), split, estimator="uniform", draws=200)
    low, high = result.nats_per_token_ci95
    assert low < math.log(VOCAB - 1) < high
    assert high - low < 0.3


def brute_force(model, ids: torch.Tensor) -> float:
    """The NELBO of one sequence from its definition: for every block, all masks under p(t) = t, t integrated.

    int_0^1 (1/t) t^k (1-t)^(n-k) dt = B(k, n-k+1): the weight of a mask of k out of n tokens.
    """
    size, total = model.config.block_size, 0.0
    for start in range(0, len(ids), size):
        free = [i for i in range(start, start + size) if i > 0]
        for k in range(1, len(free) + 1):
            weight = math.gamma(k) * math.gamma(len(free) - k + 1) / math.gamma(len(free) + 1)
            for masked in itertools.combinations(free, k):
                x_t = ids.clone()
                x_t[list(masked)] = MASK
                logits = model.logits(model(x_t[None], ids[None])[0, list(masked)])
                logits[:, MASK] = -torch.inf
                total += weight * -logits.log_softmax(-1).gather(1, ids[list(masked), None]).sum().item()
    return total


def test_exact_is_the_definition_and_the_others_estimate_it(make_model, split) -> None:
    model = make_model("bd3lm", block_size=4)
    exact = likelihood(model, split, estimator="exact")
    assert exact.exact
    with torch.inference_mode():
        truth = [brute_force(model, torch.from_numpy(ids)) for ids in split.ids[:2]]
    np.testing.assert_allclose(exact.nelbo[:2], truth, rtol=1e-5)
    total = exact.nelbo.sum()
    for name, precision in (("count", 0.01), ("uniform", 0.1)):  # a heavy tail: 1/t
        runs = [likelihood(model, split, estimator=name, draws=8, seed=s).nelbo.sum() for s in range(24)]
        error = np.std(runs, ddof=1) / math.sqrt(len(runs))
        assert abs(np.mean(runs) - total) < 4 * error
        assert error < precision * total


def test_every_count_of_every_block_is_visited_once_in_n_draws(make_model) -> None:
    """The strata: with D = n draws a block's counts are 1..n in some order, and each draw spreads them evenly."""
    maskable = torch.ones(3, 16, dtype=torch.bool)
    draws = make_estimator("count", 4, total=3, draws=4, seed=5).draws([0, 1, 2], maskable)
    counts = torch.stack([d.mask.view(3, 4, 4).sum(-1) for d in draws])  # [D, n, N]
    assert torch.equal(counts.sort(0).values, torch.arange(1, 5)[:, None, None].expand(4, 3, 4))
    single = make_estimator("count", 4, total=3, draws=1, seed=5).draws([0, 1, 2], maskable)[0]
    per_sequence = single.mask.view(3, 4, 4).sum(-1).sort(1).values
    assert torch.equal(per_sequence, torch.arange(1, 5).expand(3, 4))


def test_block_size_one_is_the_ar_style_likelihood_of_the_same_network(make_model, split) -> None:
    model = make_model("bd3lm", block_size=1)
    result = likelihood(model, split)
    assert result.exact
    ids = torch.from_numpy(split.ids)
    with torch.inference_mode():
        logits = model.logits(model(torch.full_like(ids, MASK), ids))  # every token from its clean past
        logits[..., MASK] = -torch.inf
        nll = -logits.log_softmax(-1).gather(2, ids[..., None])[:, 1:, 0].sum(1)
    np.testing.assert_allclose(result.nelbo, nll.numpy(), rtol=1e-5)


def test_one_block_of_the_whole_length_equals_mdlm(make_model, split) -> None:
    block = likelihood(make_model("bd3lm", block_size=16), split)
    mdlm = likelihood(make_model("mdlm"), split)
    np.testing.assert_allclose(block.nelbo, mdlm.nelbo, rtol=1e-5)


@pytest.mark.parametrize("short", [None, 7])
@pytest.mark.parametrize("control", ["none", "ngram"])
@pytest.mark.parametrize("estimator", ["count", "uniform", "exact"])
def test_batching_order_and_choice_of_sequences_change_nothing(make_model, estimator, control, short) -> None:
    """Beyond rounding: batches of 1, 7 and 32, a subset, and the last sequences first."""
    split = FakeSplit(np.random.default_rng(5).integers(0, MASK, (40, 16)), short)
    model = make_model("bd3lm", block_size=4)

    def measured(**options):
        return likelihood(model, split, estimator=estimator, control=control, draws=2, **options)

    whole = measured(batch_size=32)
    for batch_size in (1, 7):
        np.testing.assert_allclose(measured(batch_size=batch_size).nelbo, whole.nelbo, rtol=1e-5)
    some = measured(sequences=9, batch_size=4)
    np.testing.assert_allclose(some.nelbo, whole.nelbo[some.sequences], rtol=1e-5)
    if estimator != "exact":
        scheme, backward = make_estimator(estimator, 4, 40, draws=2), list(range(40))[::-1]
        free = maskable(torch.from_numpy(split.valid(backward)))
        for draw, flipped in zip(scheme.draws(backward[::-1], free.flip(0)), scheme.draws(backward, free), strict=True):
            assert torch.equal(draw.mask, flipped.mask.flip(0))
            assert torch.equal(draw.noise.weight, flipped.noise.weight.flip(0))


def test_the_subset_is_the_same_for_everybody() -> None:
    assert choose_sequences(100, 10) == choose_sequences(100, 10)
    assert len(set(choose_sequences(100, 10))) == 10
    assert choose_sequences(5, 10) == list(range(5))


def test_the_interval_covers(make_model) -> None:
    """Student's t over sequences: of intervals from 30 random subsets, about 95% cover the whole set's value."""
    rng = np.random.default_rng(1)
    model = make_model("ar")
    everything = likelihood(model, FakeSplit(rng.integers(0, MASK, (600, 16))))
    truth, covered = everything.nats_per_token, 0
    for i in range(30):
        part = slice(i * 20, i * 20 + 20)
        from dataclasses import replace

        subset = replace(everything, nelbo=everything.nelbo[part], tokens=everything.tokens[part])
        low, high = subset.nats_per_token_ci95
        covered += low < truth < high
    assert 25 <= covered <= 30


def test_refusals(make_model, split) -> None:
    with pytest.raises(InputError, match="stops at block size 4; this run has 8"):
        likelihood(make_model("bd3lm", block_size=8), split, estimator="exact")
    with pytest.raises(InputError, match="no estimator 'cuont'"):
        likelihood(make_model(), split, estimator="cuont")
    with pytest.raises(InputError, match="at least 2"):
        likelihood(make_model(), FakeSplit(split.ids[:1]))


def test_estimators_agree_on_a_trained_model_and_count_is_much_less_noisy(trained: Path) -> None:
    """Same sequences, one forward pass each: the Monte Carlo error of `uniform` is at least 2.5 times larger."""
    run = bd3cli.load(str(trained))
    split = run.split("validation")
    exact = run.evaluate(split, estimator="exact", sequences=96)
    spread = {}
    for name in ("count", "uniform"):
        values = np.stack(
            [run.evaluate(split, estimator=name, draws=1, seed=s, sequences=96).nelbo for s in range(24)]
        )  # [seeds, n]
        totals = values.sum(1) / exact.tokens.sum()
        error = totals.std(ddof=1) / math.sqrt(len(totals))
        assert abs(totals.mean() - exact.nats_per_token) < 4 * error
        spread[name] = math.sqrt(values.var(0, ddof=1).mean())
    assert spread["uniform"] >= 2.5 * spread["count"], spread


def test_bits_per_byte_counts_all_nats_and_only_real_bytes(trained: Path) -> None:
    run = bd3cli.load(str(trained))
    split = run.split("validation")
    result = run.evaluate(split, sequences=32)
    ids = split.tokens(result.sequences)[:, 1:]
    assert result.bytes == (ids < 256).sum()
    assert result.bits_per_byte == pytest.approx(result.nelbo.sum() / math.log(2) / result.bytes)


def test_nothing_of_the_training_objective_reaches_evaluation(trained: Path) -> None:
    """The same weights under another schedule, clip, masking and loss weight: not one bit changes."""
    from bd3cli.recipes.resolve import from_toml, to_toml
    from bd3cli.runs.directory import RECIPE

    before = bd3cli.load(str(trained))
    first = before.evaluate(before.split("validation"), sequences=32)
    path = trained / RECIPE
    original = path.read_text()
    changed = original.replace('masking = "count"', 'masking = "bernoulli"')
    changed = changed.replace('schedule = "loglinear"', 'schedule = "cosine"\nclip = [0.3, 0.8]')
    assert from_toml(changed, "changed").objective.schedule == "cosine"
    path.write_text(changed)
    try:
        after = bd3cli.load(str(trained))
        assert after.recipe is not None
        assert to_toml(after.recipe) != original
        second = after.evaluate(after.split("validation"), sequences=32)
    finally:
        path.write_text(original)
    assert np.array_equal(first.nelbo, second.nelbo)


def test_the_modulation_is_computed_once_an_evaluation_and_follows_the_weights(make_model, split, monkeypatch):
    model, calls = make_model("bd3lm"), []
    compute = type(model).modulation
    monkeypatch.setattr(type(model), "modulation", lambda self, *args: calls.append(1) or compute(self, *args))
    before = likelihood(model, split, batch_size=2)
    assert len(calls) == 1
    with torch.no_grad():
        model.output_layer.adaLN_modulation.bias += 0.5
    after = likelihood(model, split, batch_size=2)
    assert len(calls) == 2
    assert abs(after.nats_per_token - before.nats_per_token) > 1e-3
    monkeypatch.undo()
    ids = torch.from_numpy(split.tokens([0]))
    with torch.no_grad():
        plain = model(ids, ids)
        with model.folded():
            assert torch.equal(model(ids, ids), plain)
            assert torch.equal(model(ids, ids), plain)
