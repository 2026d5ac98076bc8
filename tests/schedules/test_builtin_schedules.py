"""The built-in schedules: values against high-precision formulas, and every law."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bd3cli.errors import InputError
from bd3cli.schedules import NoiseSchedule, get_schedule
from bd3cli.schedules.builtin import Cosine
from bd3cli.testing import assert_laws, check_schedule

mp.mp.dps = 40


def points() -> torch.Tensor:
    """1,000 times in (0, 1), both extremes among them."""
    rng = np.random.default_rng(0)
    ends = 10.0 ** -rng.uniform(2, 9, 200)
    t = np.concatenate([[1e-9, 1 - 1e-9], ends, 1 - ends, rng.uniform(0, 1, 598)])
    assert len(t) == 1000
    return torch.from_numpy(t)


FORMULAS = {
    "loglinear": (lambda t: t, lambda t: 1 / t),
    "square": (lambda t: t**2, lambda t: 2 / t),
    "sqrt": (mp.sqrt, lambda t: 1 / (2 * t)),
    "log": (lambda t: mp.log(1 + t) / mp.log(2), lambda t: 1 / ((1 + t) * mp.log(1 + t))),
    "cosine": (
        lambda t: 1 - mp.mpf("0.999") * mp.cos(mp.pi * t / 2),
        lambda t: mp.pi / 2 * mp.sin(mp.pi * t / 2) / (1 / mp.mpf("0.999") - mp.cos(mp.pi * t / 2)),
    ),
    "full": (lambda t: mp.mpf(1), lambda t: mp.mpf(1)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values(name: str) -> None:
    t = points()
    schedule = get_schedule(name)
    p_of, w_of = FORMULAS[name]
    for got, formula in ((schedule.mask_prob(t), p_of), (schedule.weight(t), w_of)):
        expected = torch.tensor([float(formula(mp.mpf(float(x)))) for x in t], dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("spec", [*FORMULAS, *(f"cosine:eps={e}" for e in (0.0, 1e-6, 1e-4, 0.01, 0.5))])
def test_laws(spec: str) -> None:
    assert_laws(check_schedule(get_schedule(spec)))


NUMERICAL = ("range", "endpoints", "monotone", "finite", "derivative", "weight", "inverse", "invariance")


@settings(max_examples=20, deadline=None)
@given(eps=st.floats(0.0, 0.9))
def test_cosine_obeys_the_laws_for_every_eps(eps: float) -> None:
    assert_laws(check_schedule(Cosine(eps), NUMERICAL))


@pytest.mark.parametrize("eps", [-0.1, 0.95, float("nan"), float("inf")])
def test_parameters_out_of_range_are_refused(eps: float) -> None:
    with pytest.raises(InputError, match="eps"):
        get_schedule(f"cosine:eps={eps}")
    with pytest.raises(ValueError, match="eps"):
        Cosine(eps)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_default_rate_works_where_autograd_is_off(name: str) -> None:
    """A schedule without its own rate must not silently get p' = 0 in evaluation code."""
    schedule, t = get_schedule(name), points()
    with torch.inference_mode():
        inferred = NoiseSchedule.rate(schedule, t.clone())
    with torch.no_grad():
        graphless = NoiseSchedule.rate(schedule, t)
    torch.testing.assert_close(inferred, schedule.rate(t), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(graphless, schedule.rate(t), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", ["loglinear", "square", "sqrt", "log", "cosine"])
def test_time_at_inverts(name: str) -> None:
    schedule = get_schedule(name)
    p = torch.tensor([[0.0011, 0.01], [0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(schedule.mask_prob(schedule.time_at(p)), p, rtol=1e-12, atol=0)


def test_time_at_keeps_relative_precision_near_zero() -> None:
    t = get_schedule("sqrt").time_at(torch.tensor([1e-9, 1e-20], dtype=torch.float64))
    torch.testing.assert_close(t, torch.tensor([1e-18, 1e-40], dtype=torch.float64), rtol=1e-12, atol=0)


@settings(max_examples=50, deadline=None)
@given(t=st.floats(1e-3, 1.0), name=st.sampled_from(["loglinear", "square", "sqrt", "log", "cosine"]))
def test_weight_is_the_logarithmic_derivative(t: float, name: str) -> None:
    """w = d log p / dt, by a central difference that shares no code with the schedule."""
    schedule, h = get_schedule(name), 1e-6
    here = torch.tensor([t - h * t, t + h * t], dtype=torch.float64)
    slope = float(schedule.mask_prob(here).log().diff()) / (2 * h * t)
    weight = float(schedule.weight(torch.tensor(t, dtype=torch.float64)))
    assert slope == pytest.approx(weight, rel=1e-6, abs=1e-6)
