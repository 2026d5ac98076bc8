"""Variances of loss and gradient: against enumeration of every mask, and against closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bd3cli
from bd3cli.diffusion.batch import masked_batch, token_nll, weighted_nll
from bd3cli.diffusion.objective import Objective
from bd3cli.errors import InputError
from bd3cli.evaluation.variance import Batches, Spread, gradient_variance, nelbo_variance
from bd3cli.maskings import MaskDraw
from bd3cli.maskings.adaptive import CountsFrom
from bd3cli.model import Transformer
from bd3cli.recipes.resolve import resolve
from bd3cli.recipes.settings import ObjectiveConfig
from bd3cli.schedules import Noise
from bd3cli.training.loop import train


class Split:
    """Tokens held in memory, with BOS first and no padding."""

    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, indices: list[int]) -> np.ndarray:
        return self._tokens[indices].numpy()

    def valid(self, indices: list[int]) -> np.ndarray:
        return np.ones((len(indices), self._tokens.shape[1]), dtype=bool)


def repeated(rows: int, length: int, batches: int, vocab: int = 10) -> tuple[Batches, Tensor]:
    """The same random sequences in every batch: what varies is the masks."""
    tokens = torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(1))
    return Batches(Split(tokens), [list(range(rows))] * batches, 0), tokens  # type: ignore[arg-type]


def objective(block_size: int, **config: Any) -> Objective:
    return Objective.build(ObjectiveConfig(block_size=block_size, **config), 10, block_size)


def silent(model: Transformer) -> Transformer:
    """Every token but the mask equally likely, whatever the input."""
    with torch.no_grad():
        for parameter in model.projection:
            parameter.zero_()
    return model


# Variance of w K / L' with K tokens masked: times log(10)^2 it is that of a network which knows nothing.
# (Unclipped linear times have one too, but fourth moments too large for any number of draws that a test can afford.)
FLAT = {
    "count": ({"masking": "count"}, lambda n: 0.0),
    "linear": (
        {"masking": "bernoulli", "clip": (0.1, 1.0)},
        lambda n: (math.log(1 / 0.1) / 0.9 - 1) / n,
    ),
    "clipped": (
        {"masking": "bernoulli", "clip": (0.3, 0.8)},
        lambda n: (math.log(0.8 / 0.3) / 0.5 - 1) / n,
    ),
    "square": ({"masking": "bernoulli", "schedule": "square"}, lambda n: 1 / 3 + 8 / (3 * n)),
}


@pytest.mark.parametrize("name", FLAT)
def test_a_network_that_knows_nothing_has_the_closed_form(make_model, name: str) -> None:
    """Each row is measured under its own schedule and clip: the closed forms differ. Blocks of BOS are left out."""
    config, expected = FLAT[name]
    model = silent(make_model(block_size=4))
    batches, _ = repeated(32, 16, 50)
    scheme = objective(4, **config)
    scale = math.log(10) ** 2
    found = nelbo_variance(model, scheme, batches)
    # the block with BOS has 3 maskable tokens of 4: another variance and, under any scheme, 3/4 of the mean
    counts = name == "count"
    first = 0.0 if counts else expected(3) * (3 / 4) ** 2
    moving = (3 / 4 * expected(4) + 1 / 4 * first) * scale
    mean = math.log(10)
    between = mean**2 * (1 / 4 * 3 / 4 * (1 / 4) ** 2) * 128 / 127
    assert found.mean is not None
    if counts:
        assert found.value == pytest.approx(between, rel=1e-5)
    else:
        assert abs(found.value - moving - between) < 4.5 * found.mean.stderr
        assert found.mean.stderr < 0.1 * found.value


def block_moments(
    model: Transformer, tokens: Tensor, size: int, density: dict[int, list[tuple[float, float, float]]]
) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, N] of every block's loss, by enumeration of its masks.

    Args:
        density: for every n, by k: (probability that k tokens are masked, E[w | k], E[w^2 | k]); masks of one k
            are equally likely.
    """
    batch, length = tokens.shape
    valid = torch.ones_like(tokens, dtype=torch.bool)
    free = valid.clone()
    free[:, 0] = False
    first = torch.zeros(batch, length // size, dtype=torch.float64)
    second = torch.zeros_like(first)
    n = free.unflatten(1, (-1, size)).sum(-1)
    for code in range(1, 2**size):
        pattern = torch.tensor([bool(code >> i & 1) for i in range(size)])
        fits = (free.unflatten(1, (-1, size)) | ~pattern).all(-1)
        mask = (fits.unsqueeze(-1) & pattern).flatten(1)
        given = masked_batch(tokens, valid, MaskDraw(mask, Noise.linear(torch.ones_like(first))), 10, size)
        summed = torch.zeros(batch * length // size, dtype=torch.float64)
        summed.index_add_(0, given.index // size, token_nll(model, given).double())
        loss = summed.view_as(first) / size
        k = int(pattern.sum())
        for m in range(k, size + 1):
            chance, w, w2 = density[m][k - 1]
            here = (fits & (n == m)).double() * chance / math.comb(m, k)
            first += here * w * loss
            second += here * w2 * loss.square()
    return first, second - first.square()


def counts(q: dict[int, list[float]]) -> dict[int, list[tuple[float, float, float]]]:
    return {n: [(p, 1 / (k * p), 1 / (k * p) ** 2) for k, p in enumerate(row, 1)] for n, row in q.items()}


def times(low: float, high: float, size: int) -> dict[int, list[tuple[float, float, float]]]:
    """p = t, w = 1/t, t uniform in (low, high), by quadrature."""
    t = low + (high - low) * (np.arange(200_000) + 0.5) / 200_000
    out = {}
    for n in range(1, size + 1):
        row = []
        for k in range(1, n + 1):
            pmf = math.comb(n, k) * t**k * (1 - t) ** (n - k)
            row.append((pmf.mean(), (pmf / t).mean() / pmf.mean(), (pmf / t**2).mean() / pmf.mean()))
        out[n] = row
    return out


Q = {n: [(k + 1) / (n * (n + 3) / 2) for k in range(1, n + 1)] for n in (1, 2, 3)}


@pytest.mark.parametrize("name", ["count", "clip", "adaptive"])
def test_var_nelbo_is_the_enumerated_one(make_model, name: str) -> None:
    model = make_model(length=9, block_size=3)
    batches, tokens = repeated(40, 9, 40)
    if name == "count":
        scheme, density = objective(3), counts({n: [1 / n] * n for n in (1, 2, 3)})
    elif name == "clip":
        scheme, density = objective(3, masking="bernoulli", clip=(0.45, 0.95)), times(0.45, 0.95, 3)
    else:
        q = torch.zeros(4, 4, dtype=torch.float64)
        for n, row in Q.items():
            q[n, 1 : n + 1] = torch.tensor(row)
        plain = objective(3)
        scheme = Objective(plain.config, 10, 3, CountsFrom(q), plain.schedule, plain.weight)
        density = counts(Q)
    with torch.no_grad():
        mean, variance = block_moments(model, tokens, 3, density)
    expected = float(variance.mean() + mean.var())
    found = nelbo_variance(model, scheme, batches)
    assert found.mean is not None
    assert abs(found.value - expected) < 4.5 * found.mean.stderr
    assert found.mean.stderr < 0.05 * expected
    assert found.relative == pytest.approx(expected / float(mean.mean()) ** 2, rel=0.15)


def test_gradient_variance_is_the_enumerated_one(make_model) -> None:
    """One sequence of two blocks: the first predicts its one token always, the second 1 or 2 of its two tokens."""
    model = make_model(length=4, block_size=2)
    batches, tokens = repeated(1, 4, 300)
    valid = torch.ones_like(tokens, dtype=torch.bool)
    parameters = list(model.parameters())
    gradients, chances = [], []
    for late, chance in (([1, 0], 0.25), ([0, 1], 0.25), ([1, 1], 0.5)):
        mask = torch.tensor([[False, True, *map(bool, late)]])
        weight = torch.tensor([[1.0, 2 / sum(late)]], dtype=torch.float64)
        batch = masked_batch(tokens, valid, MaskDraw(mask, Noise.linear(1 / weight, weight)), 10, 2)
        loss = weighted_nll(model, batch.to(torch.device("cpu")))[0] / 3
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients.append(torch.cat([g.flatten().double() for g in parts if g is not None]))
        chances.append(chance)
    # a pair of batches draws two of the three gradients: mean and standard deviation of what it gives
    g, p = torch.stack(gradients), torch.tensor(chances, dtype=torch.float64)

    def moments(of_a_pair: Tensor) -> tuple[float, float]:
        mean = float(p @ of_a_pair @ p)
        return mean, float(p @ (of_a_pair - mean).square() @ p) ** 0.5

    halves, halves_spread = moments(torch.cdist(g, g).square() / 2)
    products, products_spread = moments(g @ g.T)
    assert halves == pytest.approx(float(p @ (g - p @ g).square().sum(1)))  # which is the variance
    found = gradient_variance(model, objective(2), batches)
    assert found is not None
    assert found.mean is not None
    assert found.relative is not None
    pairs = len(found.variances)
    assert pairs == 150
    assert abs(found.value - halves) < 4.5 * halves_spread / pairs**0.5
    assert found.mean.stderr == pytest.approx(halves_spread / pairs**0.5, rel=0.3)
    assert abs(found.value / found.relative - products) < 4.5 * products_spread / pairs**0.5


def test_batches_are_the_same_for_all_and_no_larger_than_there_is() -> None:
    split = Split(torch.zeros(10, 4, dtype=torch.long))
    one = Batches.choose(split, list(range(10)), 3, 100, seed=0)  # type: ignore[arg-type]
    assert [len(b) for b in one.indices] == [3, 3, 3]
    assert len({i for b in one.indices for i in b}) == 9
    assert one.indices == Batches.choose(split, list(range(10)), 3, 100, seed=5).indices  # type: ignore[arg-type]
    assert len(Batches.choose(split, list(range(10)), 3, 2, seed=0).indices) == 2  # type: ignore[arg-type]
    assert len(Batches.choose(split, list(range(10)), 64, 100, seed=0).indices[0]) == 10  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 2 sequences, not 1"):
        Batches.choose(split, [3], 3, 100, seed=0)  # type: ignore[arg-type]
    assert Spread(np.array([1.0]), np.array([-0.1])).mean is None
    assert Spread(np.array([1.0]), np.array([-0.1])).relative is None


def test_eval_shows_variances_of_what_it_is_asked(cli, trained: Path) -> None:
    wanted = "loglinear;loglinear@0.45,0.95;gaussian:mu=0.5;masking:count;masking:adaptive;masking:frequency"
    row = cli("eval", trained, "--sequences", 96, "--variance-of", wanted, "--json").json
    found = {v["name"]: v for v in row["variances"]}
    assert list(found) == wanted.split(";")
    assert found["loglinear@0.45,0.95"]["clip"] == [0.45, 0.95]
    assert found["gaussian:mu=0.5"]["schedule"] == "gaussian:mu=0.5"
    assert found["masking:count"]["schedule"] is None
    assert found["masking:adaptive"]["learned"].startswith("here, from ")
    assert found["masking:count"]["learned"] is None
    assert all((v["batches"], v["batch_size"]) == (6, 16) for v in row["variances"])
    for v in row["variances"]:
        assert v["var_nelbo_ci95"][0] < v["var_nelbo"] < v["var_nelbo_ci95"][1]
        assert v["var_gradient"] > 0
    # the run trained with `count`, and the same sequences and masks were measured
    assert row["var_nelbo"] == found["masking:count"]["var_nelbo"]
    # unbiased schemes: count has far less variance than linear times
    assert found["masking:count"]["var_nelbo"] < 0.5 * found["loglinear"]["var_nelbo"]
    assert found["masking:adaptive"]["var_nelbo"] < 0.5 * found["loglinear"]["var_nelbo"]
    text = cli("eval", trained, "--sequences", 32, "--variance-of", "loglinear@0.45,0.95").out
    assert "loglinear@0.45,0.95" in text
    assert "2 batches" in text


def test_what_a_run_has_learned_is_what_is_measured(tmp_path: Path, quick: tuple[str, ...]) -> None:
    from bd3cli.diffusion.scheme import parse_scheme
    from bd3cli.studies.variances import run_objective

    overrides = [*quick, "objective.masking=adaptive", "train.steps=8", "train.validate_every=8"]
    train(resolve("tiny", overrides=overrides), tmp_path / "run")
    run = bd3cli.load(str(tmp_path / "run"))
    assert run.recipe is not None
    scheme, learned = run_objective(run, run.recipe, parse_scheme("masking:adaptive", 4))
    assert learned == "in training, up to step 8"
    assert isinstance(scheme.masking, CountsFrom)
    q = run.record.progress.masking["q"]
    torch.testing.assert_close(scheme.masking.q[4, 1:], torch.tensor(q).double(), atol=1e-6, rtol=0)


def test_what_has_no_variance_says_so(cli, trained: Path, trained_ar: Path) -> None:
    assert cli("eval", trained_ar, "--sequences", 4, "--json").json["var_nelbo"] is None
    error = cli("eval", trained_ar, "--sequences", 4, "--variance-of", "loglinear")
    assert error.code == 2
    assert "it masks nothing" in error.err
    for wanted, text in (
        ("full", "block size 1 only"),
        ("lienar", "no noise schedule 'lienar'"),
        ("masking:cuont", "count"),
    ):
        error = cli("eval", trained, "--sequences", 4, "--variance-of", wanted)
        assert error.code == 2
        assert text in error.err
    both = cli("eval", trained, "--sequences", 4, "--variance-of", "loglinear", "--variance-batches", 0)
    assert both.code == 2
