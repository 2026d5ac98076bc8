"""Frequency-informed masking: exact enumeration of small blocks, and the laws of maskings."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bd3cli.errors import InputError
from bd3cli.maskings import MaskContext, MaskNoise, get_masking
from bd3cli.schedules import get_schedule
from bd3cli.testing import assert_laws, check_masking
from bd3cli_frequency.subsets import TiltedSubsets


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_laws(strength: float) -> None:
    assert_laws(check_masking(get_masking(f"frequency:strength={strength}")))


def subsets_of(log_r: list[float]) -> tuple[TiltedSubsets, dict[int, list[torch.Tensor]]]:
    """The distribution over one block, and all its masks by size."""
    n = len(log_r)
    subsets = TiltedSubsets(
        torch.tensor(log_r, dtype=torch.float64).view(1, 1, n), torch.ones(1, 1, n, dtype=torch.bool)
    )
    masks: dict[int, list[torch.Tensor]] = {k: [] for k in range(n + 1)}
    for bits in itertools.product((False, True), repeat=n):
        masks[sum(bits)].append(torch.tensor(bits).view(1, 1, n))
    return subsets, masks


def size(k: int) -> torch.Tensor:
    return torch.tensor([[k]])


@settings(max_examples=40, deadline=None)
@given(log_r=st.lists(st.floats(-20, 20), min_size=1, max_size=6))
def test_probabilities_are_those_of_the_definition(log_r: list[float]) -> None:
    """P(M | k) is the product of r over M, normalised over all subsets of size k."""
    subsets, masks = subsets_of(log_r)
    for k, members in masks.items():
        products = [math.exp(sum(r for r, m in zip(log_r, mask.flatten(), strict=True) if m)) for mask in members]
        for mask, product in zip(members, products, strict=True):
            got = float(subsets.log_probability(mask, size(k)).exp())
            assert got == pytest.approx(product / sum(products), rel=1e-9)


def losses(n: int) -> dict[tuple[bool, ...], list[float]]:
    """For every mask, the loss of each masked token: arbitrary, and dependent on the other masked tokens."""
    g = torch.Generator().manual_seed(0)
    return {
        bits: [float(torch.rand(1, generator=g)) * (1 + sum(bits)) if bit else 0.0 for bit in bits]
        for bits in itertools.product((False, True), repeat=n)
    }


def nelbo(n: int) -> float:
    """Uniform k, uniform k-subset, weight n / k."""
    table = losses(n)
    return sum(sum(loss) / (sum(bits) * math.comb(n, sum(bits))) for bits, loss in table.items() if any(bits))


@pytest.mark.parametrize("log_r", [[0.0, 1.0, 2.5], [0.3, -1.0, 0.0, 4.0], [2.0, 2.0]])
def test_whole_mask_ratio_is_unbiased_and_per_token_ratios_are_not(log_r: list[float]) -> None:
    n = len(log_r)
    subsets, masks = subsets_of(log_r)
    table = losses(n)
    whole = per_token = 0.0
    for k in range(1, n + 1):
        probabilities = {mask: float(subsets.log_probability(mask, size(k)).exp()) for mask in masks[k]}
        inclusion = [sum(p for mask, p in probabilities.items() if mask.flatten()[i]) for i in range(n)]
        for mask, probability in probabilities.items():
            loss = table[tuple(mask.flatten().tolist())]
            ratio = float(subsets.log_ratio(mask, size(k)).exp())
            whole += probability / n * (n / k) * ratio * sum(loss)
            per_token += probability / n * (n / k) * sum(x * (k / n) / q for x, q in zip(loss, inclusion, strict=True))
    assert whole == pytest.approx(nelbo(n), rel=1e-12)
    if len(set(log_r)) > 1:
        assert abs(per_token - nelbo(n)) > 1e-3 * nelbo(n)


def context(block_size: int, length: int = 12, batch: int = 64) -> MaskContext:
    g = torch.Generator().manual_seed(1)
    counts = torch.tensor([5000, 900, 200, 50, 10, 1])
    tokens = torch.randint(0, 6, (batch, length), generator=g)
    maskable = torch.ones(batch, length, dtype=torch.bool)
    maskable[:, 0] = False
    return MaskContext(tokens, maskable, block_size, get_schedule("loglinear"), token_counts=counts)


@pytest.mark.parametrize("block_size", [1, 3, 12])
def test_the_number_of_masked_tokens_is_that_of_count(block_size: int) -> None:
    """The same expected rate, exactly: frequency decides which tokens are masked, not how many."""
    around, noise = context(block_size), MaskNoise.draw(64, 12, block_size, 0)
    ours, plain = (get_masking(spec).draw(noise, around) for spec in ("frequency:strength=1", "count"))
    torch.testing.assert_close(around.blocks(ours.mask).sum(-1), around.blocks(plain.mask).sum(-1))
    torch.testing.assert_close(ours.noise.mask_prob, plain.noise.mask_prob)


def test_rarer_tokens_are_masked_more_often() -> None:
    around = context(4, batch=4000)
    draw = get_masking("frequency:strength=0.5").draw(MaskNoise.draw(4000, 12, 4, 0), around)
    shares = [
        float(draw.mask[(around.tokens == token) & around.maskable].double().mean())
        for token in range(6)  # from the most frequent to the rarest
    ]
    assert shares == sorted(shares)
    assert shares[-1] > shares[0] + 0.2


def test_strength_zero_is_uniform() -> None:
    around, noise = context(4), MaskNoise.draw(64, 12, 4, 0)
    draw = get_masking("frequency:strength=0").draw(noise, around)
    torch.testing.assert_close(draw.noise.weight, get_masking("count").draw(noise, around).noise.weight)


def test_large_blocks_stay_finite() -> None:
    around, noise = context(256, length=256, batch=2), MaskNoise.draw(2, 256, 256, 0)
    draw = get_masking("frequency:strength=2").draw(noise, around)
    assert torch.isfinite(draw.noise.weight).all()
    assert draw.mask.any(-1).all()


def test_token_counts_are_required() -> None:
    around = context(4)
    without = MaskContext(around.tokens, around.maskable, 4, around.schedule)
    with pytest.raises(InputError, match="how often each token occurs"):
        get_masking("frequency").draw(MaskNoise.draw(64, 12, 4, 0), without)
