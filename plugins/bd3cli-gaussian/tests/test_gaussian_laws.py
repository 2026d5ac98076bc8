"""Every law of schedules, over the parameters of the Gaussian ones."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bd3cli.schedules import get_schedule
from bd3cli.testing import assert_laws, check_schedule
from bd3cli_gaussian.bimodal import BimodalGaussian
from bd3cli_gaussian.gaussian import Gaussian

NUMERICAL = ("range", "endpoints", "monotone", "finite", "derivative", "weight", "inverse", "invariance")


@pytest.mark.parametrize("spec", ["gaussian", "bimodal-gaussian", "bimodal-gaussian:form=piecewise"])
def test_laws(spec: str) -> None:
    assert_laws(check_schedule(get_schedule(spec)))


@pytest.mark.parametrize(
    "spec",
    [
        "gaussian:mu=0.6",
        "gaussian:mu=0.7,sigma=0.2",
        "gaussian:mu=0.3,sigma=0.05",
        "gaussian:mu=1,sigma=0.01",
        "gaussian:mu=0,sigma=10",
        "bimodal-gaussian:mu1=0.1",
        "bimodal-gaussian:mu1=0.1,mu2_start=0.4",
        "bimodal-gaussian:mu1=0,sigma1=0.01,mu2=1,sigma2=0.01,w1=0.999",
        "bimodal-gaussian:form=piecewise,mu1=0.1,sigma1=0.3,sigma2=0.5,w1=0.2",
        "bimodal-gaussian:form=piecewise,mu1=0.1,w1=0.6",  # the second sweep passes the first one's end unseen
        "bimodal-gaussian:mu1=0.63,mu2=0.845,sigma1=0.02,sigma2=0.01,w1=0.708",  # 8% of the rates lie between times
    ],
)
def test_numerical_laws(spec: str) -> None:
    assert_laws(check_schedule(get_schedule(spec), NUMERICAL))


unit, width = st.floats(0.0, 1.0), st.floats(-2.0, 1.0).map(lambda x: 10**x)


@settings(max_examples=25, deadline=None)
@given(mu=unit, sigma=width)
def test_gaussian_obeys_the_laws_for_all_parameters(mu: float, sigma: float) -> None:
    assert_laws(check_schedule(Gaussian(mu, sigma), NUMERICAL))


@settings(max_examples=8, deadline=None)
@given(
    mu1=unit,
    sigma1=width,
    mu2=unit,
    sigma2=width,
    w1=st.floats(0.001, 0.999),
    form=st.sampled_from(["mixture", "piecewise"]),
)
def test_bimodal_obeys_the_laws_for_all_parameters(
    mu1: float, sigma1: float, mu2: float, sigma2: float, w1: float, form: str
) -> None:
    schedule = BimodalGaussian(mu1, sigma1, mu2, sigma2, w1, None, form)  # type: ignore[arg-type]
    assert_laws(check_schedule(schedule, NUMERICAL))


@dataclass(frozen=True)
class Unhalved(BimodalGaussian):
    """The published piecewise weight: two sweeps, but not divided by two."""

    def weight(self, t: Tensor) -> Tensor:
        return 2 * super().weight(t)


def test_the_published_weight_fails_exactly_the_weight_and_invariance_laws() -> None:
    laws = check_schedule(Unhalved(form="piecewise"))
    assert {law.law for law in laws if not law.ok} == {"weight", "invariance"}


def test_the_published_weight_integrates_to_twice_the_nelbo() -> None:
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    s = Unhalved(sigma1=0.3, sigma2=0.3, form="piecewise")
    assert float((s.weight(t) * s.mask_prob(t)).mean()) == pytest.approx(2.0, abs=1e-3)
    mixture = BimodalGaussian(sigma1=0.3, sigma2=0.3)
    assert float((mixture.weight(t) * mixture.mask_prob(t)).mean()) == pytest.approx(1.0, abs=1e-3)
