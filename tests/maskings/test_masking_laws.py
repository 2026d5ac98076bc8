"""Built-in maskings, enumerated; and the law checker for maskings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bd3cli.errors import InputError
from bd3cli.maskings import MaskContext, MaskDraw, Masking, MaskNoise, get_masking
from bd3cli.maskings.base import lowest
from bd3cli.maskings.bernoulli import Bernoulli, _count_within, require_attainable
from bd3cli.maskings.count import Count
from bd3cli.rng import uniform
from bd3cli.schedules import Noise, get_schedule
from bd3cli.testing import assert_laws, check_masking


@pytest.mark.parametrize("spec", ["bernoulli", "count"])
def test_laws(spec: str) -> None:
    assert_laws(check_masking(get_masking(spec)))


@dataclass(frozen=True)
class RareFirst(Masking):
    """The rarest tokens are masked, with the weight of uniform subsets: biased."""

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        assert context.token_counts is not None
        plain = Count().draw(noise, context)
        n = context.blocks(context.maskable).sum(-1)
        k = (plain.noise.mask_prob * n).round().long()
        keys = context.blocks(noise.position + context.token_counts[context.tokens] / 2000)
        mask = lowest(keys, k, context.blocks(context.maskable))
        return MaskDraw(mask.flatten(1), plain.noise)


@dataclass(frozen=True)
class PerTokenWeights(Masking):
    """Independent masks with other rates, weighted by the *mean* likelihood ratio of the masked tokens."""

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        p = (1 - noise.time).unsqueeze(-1)
        tilt = torch.linspace(0.5, 1.5, context.block_size, dtype=torch.float64)
        rates = (p * tilt).clamp(max=1).expand(*noise.time.shape, -1)
        maskable = context.blocks(context.maskable)
        mask = (context.blocks(noise.position) < rates) & maskable
        ratio = ((p / rates) * mask).sum(-1) / mask.sum(-1).clamp_min(1)
        mean = (rates * maskable).sum(-1) / maskable.sum(-1).clamp_min(1)
        return MaskDraw(mask.flatten(1), Noise.linear(mean, ratio / p.squeeze(-1)))


@dataclass(frozen=True)
class MasksEverything(Masking):
    """The weight of a full mask alone: no other mask is ever trained."""

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        return MaskDraw(torch.ones_like(context.maskable), Noise.linear(torch.ones_like(noise.time)))


@dataclass(frozen=True)
class OwnRandomness(Masking):
    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        fresh = MaskNoise(
            torch.rand_like(noise.time), torch.rand_like(noise.count), torch.rand_like(noise.position), noise.level
        )
        return Count().draw(fresh, context)


@dataclass(frozen=True)
class MixesSequences(Masking):
    """Sequences borrow each other's noise, so micro-batches would differ from the whole batch."""

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        return Count().draw(MaskNoise(noise.time.flip(0), noise.count, noise.position.flip(0), noise.level), context)


@dataclass(frozen=True)
class WrongRate(Masking):
    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        draw = Count().draw(noise, context)
        return replace(draw, noise=replace(draw.noise, mask_prob=draw.noise.mask_prob / 2))


@dataclass(frozen=True)
class InfiniteWhereEmpty(Masking):
    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        draw = Count().draw(noise, context)
        return MaskDraw(draw.mask, Noise.linear(draw.noise.mask_prob))


@dataclass(frozen=True)
class Unpicklable(Count):
    function: Callable[[], Any] = field(default=lambda: None)


@dataclass(frozen=True)
class PerToken(Masking):
    """A weight for each token instead of each block."""

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        draw = Count().draw(noise, context)
        spread = draw.noise.weight.repeat_interleave(context.block_size, 1)
        return replace(draw, noise=replace(draw.noise, weight=spread))


def failures(masking: Masking) -> set[str]:
    return {law.law for law in check_masking(masking) if not law.ok}


@pytest.mark.parametrize(
    ("masking", "laws"),
    [
        (RareFirst(), {"unbiased"}),
        (PerTokenWeights(), {"unbiased"}),
        (MasksEverything(), {"given", "rate", "unbiased"}),
        (OwnRandomness(), {"pure", "rows"}),
        (MixesSequences(), {"rows"}),
        (WrongRate(), {"rate"}),
        (InfiniteWhereEmpty(), {"finite"}),
        (Unpicklable(), {"pickle"}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Masking) else "",
)
def test_a_mistake_fails_its_laws_and_no_others(masking: Masking, laws: set[str]) -> None:
    assert failures(masking) == laws


def test_weights_are_one_a_block() -> None:
    assert "shapes" in failures(PerToken())


def noise(batch: int, length: int, block_size: int, key: int = 0) -> MaskNoise:
    return MaskNoise.draw(batch, length, block_size, key, "test")


def context(batch: int, length: int, block_size: int, schedule: str = "loglinear", **more: Any) -> MaskContext:
    tokens = torch.zeros(batch, length, dtype=torch.long)
    maskable = torch.ones(batch, length, dtype=torch.bool)
    return MaskContext(tokens, maskable, block_size, get_schedule(schedule), **more)


@settings(max_examples=30, deadline=None)
@given(
    lists=st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=1, max_size=4),
    size=st.sampled_from([1, 2, 4, 8]),
    key=st.integers(0, 1000),
)
def test_count_masks_exactly_k_of_the_maskable(lists: list[list[bool]], size: int, key: int) -> None:
    around = context(len(lists), 8, size)
    around = MaskContext(around.tokens, torch.tensor(lists), size, around.schedule)
    draw = Count().draw(noise(len(lists), 8, size, key), around)
    n = around.blocks(around.maskable).sum(-1)
    k = around.blocks(draw.mask).sum(-1)
    assert not bool((draw.mask & ~around.maskable).any())
    assert bool((k[n > 0] >= 1).all())
    torch.testing.assert_close(draw.noise.weight[n > 0] * k[n > 0] / n[n > 0], torch.ones(int((n > 0).sum())).double())
    assert bool((draw.noise.weight[n == 0] == 0).all())


@pytest.mark.parametrize("schedule", ["loglinear", "square", "sqrt", "log", "cosine"])
def test_bernoulli_masks_at_the_schedules_rate(schedule: str) -> None:
    around = context(400, 16, 4, schedule)
    draw = Bernoulli().draw(noise(400, 16, 4), around)
    expected = draw.noise.mask_prob.mean()
    assert float(draw.mask.double().mean()) == pytest.approx(float(expected), abs=0.02)


@pytest.mark.parametrize(
    ("schedule", "missing"), [("loglinear", 0.0), ("square", 0.0), ("cosine", 1e-3), ("log", 4e-4), ("sqrt", 0.031)]
)
def test_bias_of_a_flat_loss_is_what_t_min_leaves_out(schedule: str, missing: float) -> None:
    """w p integrates to p(1) - p(t_min), not to 1: a bias of 3% under `sqrt`, documented."""
    around = context(2000, 64, 1, schedule)
    draw = Bernoulli().draw(noise(2000, 64, 1), around)
    assert float((draw.noise.weight * draw.noise.mask_prob).mean()) == pytest.approx(1 - missing, abs=1e-3)


@pytest.mark.parametrize("clip", [(0.3, 0.8), (0.5, 1.0), (0.0, 0.5)])
def test_clipping_restricts_the_time_of_any_schedule(clip: tuple[float, float]) -> None:
    for spec in ("loglinear", "cosine", "square"):
        schedule = get_schedule(spec)
        draw = Bernoulli().draw(noise(200, 16, 4), context(200, 16, 4, spec, clip=clip))
        low, high = schedule.mask_prob(torch.tensor(clip, dtype=torch.float64)).tolist()
        assert low <= float(draw.noise.mask_prob.min()) < low + 0.02
        assert high - 0.02 < float(draw.noise.mask_prob.max()) <= high


@pytest.mark.parametrize("clip", [(0.3, 0.8), (0.5, 0.5), (0.9, 1.0), (0.0, 0.2)])
def test_resampling_keeps_the_fraction_inside(clip: tuple[float, float]) -> None:
    around = context(300, 16, 4 if clip != (0.0, 0.2) else 8, clip=clip, resample=True)
    draw = Bernoulli().draw(noise(300, 16, around.block_size), around)
    fraction = around.blocks(draw.mask).double().mean(-1)
    assert clip[0] <= float(fraction.min())
    assert float(fraction.max()) <= clip[1]


def test_resampled_counts_follow_the_conditional_binomial() -> None:
    n, p = torch.full((1, 20_000), 8), torch.full((1, 20_000), 0.35, dtype=torch.float64)
    u = uniform((1, 20_000), 1, "resample")
    k = _count_within(u, n, p, (0.3, 0.8))
    pmf = {j: math.comb(8, j) * 0.35**j * 0.65 ** (8 - j) for j in range(3, 7)}
    for j, probability in pmf.items():
        share = float((k == j).double().mean())
        assert share == pytest.approx(probability / sum(pmf.values()), abs=0.012)
    assert set(k.unique().tolist()) == set(pmf)


def test_resampling_survives_the_largest_uniform() -> None:
    """Rounding of the distribution function must not push a count beyond the interval."""
    u = torch.tensor([[1 - 2.0**-53, 0.0]], dtype=torch.float64)
    for size in (7, 64, 1023):
        k = _count_within(u, torch.full((1, 2), size), torch.full((1, 2), 0.37, dtype=torch.float64), (0.3, 0.8))
        fraction = k / size
        assert float(fraction.min()) >= 0.3 - 1e-9
        assert float(fraction.max()) <= 0.8 + 1e-9


def test_no_attainable_fraction_is_refused() -> None:
    with pytest.raises(InputError, match=r"block size 1 .* \[0.3, 0.8\]"):
        require_attainable(1, (0.3, 0.8))
    require_attainable(4, (0.3, 0.8))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 6), k=st.integers(0, 6), seed=st.integers(0, 10_000))
def test_lowest_takes_the_smallest_keys(n: int, k: int, seed: int) -> None:
    keys = uniform((1, 1, n), seed)
    mask = lowest(keys, torch.tensor([[min(k, n)]]), torch.ones(1, 1, n, dtype=torch.bool))
    assert int(mask.sum()) == min(k, n)
    if 0 < k < n:
        assert float(keys[mask].max()) < float(keys[~mask].min())
