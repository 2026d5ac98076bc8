"""`NoiseSchedule.noise`: one call gives what the methods give, from one evaluation of the mask probability."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import pytest
import torch
from torch import Tensor

from bd3cli.plugins import load_plugins
from bd3cli.schedules import Noise, NoiseSchedule, get_schedule

SHIPPED = [entry.name for entry in load_plugins().schedules.entries()]
MORE = ["cosine:eps=0.25", "gaussian:mu=0,sigma=0.02", "bimodal-gaussian:form=piecewise"]
SPECS = SHIPPED + [spec for spec in MORE if spec.split(":")[0] in SHIPPED]


def times() -> Tensor:
    """From the smallest number that is drawn, and below, to 1."""
    return torch.cat([torch.logspace(-12, -1, 40), torch.linspace(0.1, 1, 200)]).double()


@dataclass(frozen=True)
class Cubic(NoiseSchedule):
    """p = t^3 and nothing else; counts how often it is asked."""

    asked: list[int] = field(default_factory=list, compare=False)

    def mask_prob(self, t: Tensor) -> Tensor:
        self.asked.append(t.numel())
        return t**3


@dataclass(frozen=True)
class OwnRate(Cubic):
    def rate(self, t: Tensor) -> Tensor:
        return 6 * t**2


@dataclass(frozen=True)
class OwnWeight(Cubic):
    def weight(self, t: Tensor) -> Tensor:
        return 5 / t


@dataclass(frozen=True)
class OwnBoth(OwnRate):
    def weight(self, t: Tensor) -> Tensor:
        return 5 / t


@dataclass(frozen=True)
class HalfOfTheInherited(OwnRate):
    def weight(self, t: Tensor) -> Tensor:
        return super().weight(t) / 2


@dataclass(frozen=True)
class TwoSweeps(Cubic):
    sweeps = 2


@pytest.mark.parametrize("spec", SPECS)
def test_the_fields_are_what_the_methods_give(spec: str) -> None:
    """To the last bit, so that who asks once trains on what who asks three times did."""
    schedule, t = get_schedule(spec), times()
    noise = schedule.noise(t)
    for name in ("mask_prob", "rate", "weight"):
        value = getattr(noise, name)
        assert value.dtype == torch.float64
        assert torch.equal(value, getattr(schedule, name)(t)), name
    assert torch.equal(noise.alpha, 1 - schedule.mask_prob(t))
    assert torch.equal(noise.dalpha_dt, -schedule.rate(t))


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_shipped_is_asked_once(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, calls = get_schedule(spec), []
    written = type(schedule).mask_prob
    monkeypatch.setattr(type(schedule), "mask_prob", lambda self, t: calls.append(t) or written(self, t))
    schedule.noise(times())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("schedule", "rate", "weight"),  # of p = t^3 at t = 1/2: p' = 3/4 and p'/p = 6, unless a class says otherwise
    [
        (Cubic(), 3 / 4, 6.0),
        (OwnRate(), 6 / 4, 12.0),
        (OwnWeight(), 3 / 4, 10.0),
        (OwnBoth(), 6 / 4, 10.0),
        (HalfOfTheInherited(), 6 / 4, 6.0),
        (TwoSweeps(), 3 / 4, 3.0),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, NoiseSchedule) else "",
)
def test_what_a_class_overrides_is_honoured(schedule: NoiseSchedule, rate: float, weight: float) -> None:
    noise = schedule.noise(torch.full((2, 3), 0.5, dtype=torch.float64))
    assert [x.unique().tolist() for x in (noise.mask_prob, noise.rate, noise.weight)] == [[1 / 8], [rate], [weight]]


@pytest.mark.parametrize("cls", [Cubic, OwnRate, OwnWeight, OwnBoth, TwoSweeps])
def test_the_mask_probability_is_evaluated_once(cls: type[Cubic]) -> None:
    schedule = cls()
    schedule.noise(times())
    assert schedule.asked == [240]


def test_the_weight_alone_evaluates_it_once_too() -> None:
    schedule = Cubic()
    schedule.weight(times())
    assert schedule.asked == [240]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_dtype_and_shape_are_kept(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    t = torch.full(shape, 0.375, dtype=dtype)
    for schedule in (Cubic(), OwnRate(), get_schedule("cosine")):
        noise = schedule.noise(t)
        assert {(x.dtype, x.shape) for x in vars(noise).values()} == {(dtype, t.shape)}


def test_it_needs_no_gradients_and_compiles() -> None:
    t = times()
    noise = get_schedule("sqrt").noise(t)
    with torch.inference_mode():
        inferred = get_schedule("sqrt").noise(t.clone())
    compiled = torch.compile(lambda x: Power().noise(x).weight, backend="eager", fullgraph=True)
    assert torch.equal(inferred.weight, noise.weight)
    assert torch.equal(compiled(t), Power().noise(t).weight)
    torch._dynamo.reset()


@dataclass(frozen=True)
class Power(NoiseSchedule):
    exponent: float = 1.5

    def mask_prob(self, t: Tensor) -> Tensor:
        return t**self.exponent


def test_without_a_time_the_mask_rate_is_the_time() -> None:
    p = torch.tensor([0.25, 0.5], dtype=torch.float64)
    noise, given = Noise.linear(p), Noise.linear(p, 3 * p)
    assert [x.tolist() for x in vars(noise).values()] == [[0.25, 0.5], [1, 1], [4, 2]]
    assert [noise.alpha.tolist(), noise.dalpha_dt.tolist()] == [[0.75, 0.5], [-1, -1]]
    assert given.weight.tolist() == [0.75, 1.5]
    line = get_schedule("loglinear").noise(p)
    assert all(torch.equal(getattr(line, f.name), getattr(noise, f.name)) for f in fields(Noise))
