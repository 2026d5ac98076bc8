"""Loss weights: their published formulas, their laws over all parameters, and the traps they fell into before."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bd3cli.diffusion.combinations import weight_normaliser
from bd3cli.schedules import Noise, get_schedule
from bd3cli.testing import assert_laws, check_weight
from bd3cli.weights import LossWeight, get_weight
from bd3cli_reweighting.lambdas import EDM, FlowMatching, Sigmoid
from bd3cli_reweighting.simple import Simple

mp.mp.dps = 40


def edm(lam: mp.mpf) -> mp.mpf:
    density = mp.exp(-((lam - mp.mpf("2.4")) ** 2) / (2 * mp.mpf("2.4") ** 2)) / (mp.mpf("2.4") * mp.sqrt(2 * mp.pi))
    return density * (mp.exp(-lam) + mp.mpf("0.25")) / mp.mpf("0.25")


FORMULAS = {
    "edm": edm,
    "iddpm": lambda lam: mp.sech(lam / 2),
    "sigmoid:k=0": lambda lam: 1 / (1 + mp.exp(lam)),
    "sigmoid:k=2.5": lambda lam: 1 / (1 + mp.exp(lam - mp.mpf("2.5"))),
    "sigmoid:k=-1": lambda lam: 1 / (1 + mp.exp(lam + 1)),
    "fm:cap=1e6": lambda lam: mp.exp(-lam / 2),
}


def alphas() -> torch.Tensor:
    """1,000 values in (0, 1), close to both ends too."""
    middle = torch.rand(800, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = torch.logspace(-9, -2, 100, dtype=torch.float64)
    return torch.cat([ends, middle, 1 - ends])


@pytest.mark.parametrize("spec", FORMULAS)
def test_values_in_lambda(spec: str) -> None:
    """The alpha forms equal the published functions of lambda = log(alpha / (1 - alpha))."""
    alpha = alphas()
    got = get_weight(spec).weight(alpha, -torch.ones_like(alpha))
    exact = [mp.mpf(a) for a in alpha.tolist()]
    expected = [float(FORMULAS[spec](mp.log(a / (1 - a)))) for a in exact]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "spec",
    [
        *("edm", "edm:mean=0", "edm:std=1", "edm:data_std=0.1", "edm:mean=-10,std=5,data_std=0.01"),
        *("sigmoid", "sigmoid:k=1", "sigmoid:k=-1", "sigmoid:k=50", "sigmoid:k=-50"),
        *("fm", "fm:cap=1", "fm:cap=3", "fm:cap=100", "fm:cap=1e6"),
        *("iddpm", "simple"),
    ],
)
def test_laws(spec: str) -> None:
    assert_laws(check_weight(get_weight(spec)))


NUMERICAL = ("finite", "positive", "product", "elementwise")


@settings(max_examples=40, deadline=None)
@given(
    weight=st.one_of(
        st.builds(EDM, st.floats(-10, 10), st.floats(0.1, 5), st.floats(0.01, 10)),
        st.builds(Sigmoid, st.floats(-50, 50)),
        st.builds(FlowMatching, st.floats(1, 1e6)),
        st.just(Simple()),
    )
)
def test_laws_for_all_parameters(weight: LossWeight) -> None:
    assert_laws(check_weight(weight, only=NUMERICAL))


def test_simple_is_sigmoid_zero_under_loglinear() -> None:
    loglinear, t = get_schedule("loglinear"), torch.linspace(1e-3, 1, 1000, dtype=torch.float64)
    noise, simple, sigmoid = loglinear.noise(t), get_weight("simple"), get_weight("sigmoid:k=0")
    pair = noise.alpha, noise.dalpha_dt
    torch.testing.assert_close(simple.weight(*pair), sigmoid.weight(*pair), rtol=0, atol=1e-12)
    torch.testing.assert_close(simple.scaled(noise), sigmoid.scaled(noise), rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ["loglinear", "square", "sqrt", "log", "cosine"])
def test_simple_gives_every_masked_token_weight_one(schedule: str) -> None:
    """Under every schedule, at every time, at t = 0 and far below what is drawn too."""
    s, t = get_schedule(schedule), torch.cat([torch.zeros(1), torch.logspace(-12, 0, 500)]).double()
    product = Simple().scaled(s.noise(t))
    torch.testing.assert_close(product, torch.ones_like(t), rtol=1e-6, atol=0)


def test_simple_keeps_an_importance_weight() -> None:
    """A masking may put a likelihood ratio into the NELBO weight: cancelling w must not cancel that."""
    p, rate = torch.tensor([0.8, 0.3], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    ratio = torch.tensor([3.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(Simple().scaled(Noise(p, rate, rate / p * ratio)), ratio)


def test_simple_uses_the_noise_of_every_block() -> None:
    """A published implementation used the first block's noise for all and exploded."""
    s, t = get_schedule("cosine"), torch.rand(4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = Simple().weight(s.noise(t).alpha, s.noise(t).dalpha_dt)
    noises = [s.noise(x) for x in t.flatten()]
    apart = torch.stack([Simple().weight(noise.alpha, noise.dalpha_dt) for noise in noises]).view(4, 8)
    torch.testing.assert_close(whole, apart)


def test_finite_when_everything_is_masked() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    for spec in ("edm", "iddpm", "sigmoid", "fm", "simple"):
        value = get_weight(spec).weight(zero, -torch.ones(1, dtype=torch.float64))
        assert torch.isfinite(value).all(), spec
    assert float(get_weight("fm:cap=7").weight(zero, zero)) == 7


@pytest.mark.parametrize(
    ("spec", "mean"), [("sigmoid:k=0", 1 / 2), ("iddpm", math.pi / 4), ("fm:cap=1e6", math.pi / 2)]
)
def test_normaliser_is_the_known_integral(spec: str, mean: float) -> None:
    """Under `square`, p covers all of [0, 1]: integrals of p, 2 sqrt(p(1-p)) and sqrt(p/(1-p))."""
    assert weight_normaliser(get_weight(spec), get_schedule("square")) == pytest.approx(mean, rel=1e-5)


def test_normaliser_over_counts_and_clips() -> None:
    sigmoid, loglinear = get_weight("sigmoid:k=0"), get_schedule("loglinear")
    assert weight_normaliser(sigmoid, loglinear, block_size=4) == pytest.approx((1 + 2 + 3 + 4) / 16)
    assert weight_normaliser(sigmoid, loglinear, (0.3, 0.8)) == pytest.approx(0.55)


def test_a_weight_that_vanishes_cannot_be_normalised() -> None:
    """`iddpm` is zero when everything is masked, which is all that `full` ever does."""
    with pytest.raises(ValueError, match="cannot be normalised"):
        weight_normaliser(get_weight("iddpm"), get_schedule("full"))
