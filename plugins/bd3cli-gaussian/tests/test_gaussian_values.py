"""Values of the Gaussian schedules against independent references: scipy.stats, and mpmath with 40 digits."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import optimize, stats

from bd3cli.schedules import get_schedule
from bd3cli_gaussian.bimodal import BimodalGaussian
from bd3cli_gaussian.gaussian import Gaussian
from bd3cli_gaussian.truncated import TruncatedNormal

mp.mp.dps = 40
SETTINGS = [(0.5, 0.1), (0.6, 0.1), (0.7, 0.1), (0.3, 0.05), (0.0, 0.3), (1.0, 0.2), (0.5, 0.02), (0.2, 5.0)]
MIXTURES = [
    BimodalGaussian(),
    BimodalGaussian(mu1=0.1),
    BimodalGaussian(mu2_start=0.4).at_progress(0.0),
    BimodalGaussian(mu2_start=0.4).at_progress(1.0),
    BimodalGaussian(mu1=0.0, sigma1=0.05, mu2=1.0, sigma2=0.05, w1=0.3),
    BimodalGaussian(mu1=0.5, sigma1=0.03, mu2=0.5, sigma2=1.0, w1=0.5),
]


def points() -> torch.Tensor:
    """1,000 times in (0, 1), both extremes among them."""
    rng = np.random.default_rng(1)
    ends = 10.0 ** -rng.uniform(2, 9, 200)
    t = np.concatenate([[1e-9, 1 - 1e-9], ends, 1 - ends, rng.uniform(0, 1, 598)])
    assert len(t) == 1000
    return torch.from_numpy(t)


def mp_cdf(p: mp.mpf, mu: float, sigma: float) -> mp.mpf:
    mu, sigma = mp.mpf(mu), mp.mpf(sigma)
    low, high = mp.ncdf(-mu / sigma), mp.ncdf((1 - mu) / sigma)
    return (mp.ncdf((p - mu) / sigma) - low) / (high - low)


def mp_density(p: mp.mpf, mu: float, sigma: float) -> mp.mpf:
    mu, sigma = mp.mpf(mu), mp.mpf(sigma)
    mass = mp.ncdf((1 - mu) / sigma) - mp.ncdf(-mu / sigma)
    return mp.npdf((p - mu) / sigma) / (sigma * mass)


@pytest.mark.parametrize(("mu", "sigma"), SETTINGS)
def test_gaussian_against_scipy(mu: float, sigma: float) -> None:
    t = points()
    reference = stats.truncnorm(-mu / sigma, (1 - mu) / sigma, loc=mu, scale=sigma)
    expected = torch.from_numpy(reference.ppf(t.numpy()))
    torch.testing.assert_close(Gaussian(mu, sigma).mask_prob(t), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("mu", "sigma"), SETTINGS)
def test_gaussian_against_mpmath(mu: float, sigma: float) -> None:
    """The true p lies within 1e-9 of ours, relatively; the weight agrees to 1e-9."""
    schedule, t = Gaussian(mu, sigma), points()
    for time, p, w in zip(t.tolist(), schedule.mask_prob(t).tolist(), schedule.weight(t).tolist(), strict=True):
        p_mp, slack = mp.mpf(p), mp.mpf("1e-9")
        assert mp_cdf(p_mp * (1 - slack), mu, sigma) < time < mp_cdf(p_mp * (1 + slack), mu, sigma), time
        assert w == pytest.approx(float(1 / (mp_density(p_mp, mu, sigma) * p_mp)), rel=1e-9), time


@pytest.mark.parametrize("schedule", MIXTURES, ids=str)
def test_mixture_against_mpmath(schedule: BimodalGaussian) -> None:
    s, t = schedule, points()
    parts = ((s.w1, s.mu1, s.sigma1), (1 - s.w1, s.mu2, s.sigma2))
    for time, p, w in zip(t.tolist(), s.mask_prob(t).tolist(), s.weight(t).tolist(), strict=True):
        p_mp, slack = mp.mpf(p), mp.mpf("1e-9")
        below, above = (
            sum(mp.mpf(share) * mp_cdf(p_mp * factor, mu, sigma) for share, mu, sigma in parts)
            for factor in (1 - slack, 1 + slack)
        )
        assert below < time < above, time
        density = sum(mp.mpf(share) * mp_density(p_mp, mu, sigma) for share, mu, sigma in parts)
        assert w == pytest.approx(float(1 / (density * p_mp)), rel=1e-9), time


@pytest.mark.parametrize("schedule", MIXTURES[:4], ids=str)
def test_mixture_against_numerical_inversion(schedule: BimodalGaussian) -> None:
    s, t = schedule, points()[::10]
    one, two = (
        stats.truncnorm(-mu / sigma, (1 - mu) / sigma, loc=mu, scale=sigma)
        for mu, sigma in ((s.mu1, s.sigma1), (s.mu2, s.sigma2))
    )
    expected = [
        optimize.brentq(lambda p, u=u: s.w1 * one.cdf(p) + (1 - s.w1) * two.cdf(p) - u, 0, 1, xtol=1e-14)
        for u in t.tolist()
    ]
    # next to t = 1 the distribution function itself has only 1e-16 / density of precision
    torch.testing.assert_close(s.mask_prob(t), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_published_piecewise_formulas() -> None:
    """t < w1 runs through the first component, the rest through the second; half the published weight."""
    s = BimodalGaussian(form="piecewise")
    t = torch.tensor([0.1, 0.3, 0.59, 0.61, 0.8, 0.99], dtype=torch.float64)
    for time, p, w in zip(t.tolist(), s.mask_prob(t).tolist(), s.weight(t).tolist(), strict=True):
        first = time < s.w1
        mu, sigma, share = (s.mu1, s.sigma1, s.w1) if first else (s.mu2, s.sigma2, 1 - s.w1)
        inner = time / s.w1 if first else (time - s.w1) / (1 - s.w1)
        normal = stats.truncnorm(-mu / sigma, (1 - mu) / sigma, loc=mu, scale=sigma)
        assert p == pytest.approx(normal.ppf(inner), rel=1e-10)
        published = 1 / (share * normal.pdf(p) * p)
        assert w == pytest.approx(published / 2, rel=1e-10)


def test_mu2_moves_as_published() -> None:
    s = get_schedule("bimodal-gaussian:mu2=0.85,mu2_start=0.4")
    for fraction in (0.0, 0.25, 1.0):
        assert s.at_progress(fraction).mu2 == pytest.approx(0.4 + 0.45 * (1 - np.exp(-3 * fraction)))


@pytest.mark.parametrize("spec", ["gaussian", "gaussian:mu=0.3,sigma=0.02", "bimodal-gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_times_lose_no_more_than_their_own_rounding(spec: str, dtype: torch.dtype) -> None:
    """Everything inside is float64: the result is the float64 one, rounded."""
    schedule, t = get_schedule(spec), torch.rand(4096, generator=torch.Generator().manual_seed(0)).to(dtype)
    for name in ("mask_prob", "rate", "weight"):
        got, exact = getattr(schedule, name)(t), getattr(schedule, name)(t.double())
        assert got.dtype == dtype
        assert torch.isfinite(got[t > 0]).all()
        torch.testing.assert_close(got, exact.clamp(max=torch.finfo(dtype).max).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(("mu", "sigma"), SETTINGS)
def test_distribution_function_inverts_the_quantile(mu: float, sigma: float) -> None:
    normal, t = TruncatedNormal(mu, sigma), points()
    p = normal.quantile(t)
    torch.testing.assert_close(normal.cdf(p), t, rtol=1e-9, atol=0)
    torch.testing.assert_close(normal.tail(p), 1 - t, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("text", ["sigma=0", "sigma=-1", "mu=2", "mu=nan", "sigma=abc", "mean=1"])
def test_impossible_parameters_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text.split("=")[0]):
        get_schedule(f"gaussian:{text}")


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="piecewise"):
        get_schedule("bimodal-gaussian:form=peicewise")
    with pytest.raises(ValueError, match="form must be"):
        BimodalGaussian(form="other")  # type: ignore[arg-type]
