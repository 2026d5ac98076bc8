"""The sliced projection and loss against plain autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bd3cli.diffusion import cross_entropy
from bd3cli.diffusion.cross_entropy import token_losses, weighted_loss


@pytest.fixture(params=[None, 6, 2])
def excluded(request: pytest.FixtureRequest) -> int | None:
    return request.param


def inputs(dtype: torch.dtype, m: int = 45, d: int = 8, v: int = 7):
    g = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, generator=g, dtype=dtype) for s in ((m, d), (v, d), (v,)))
    target = torch.randint(0, 2, (m,), generator=g)
    return hidden, weight, bias, target, torch.rand(m, generator=g) * 3


def plain(hidden, weight, bias, target, excluded):
    logits = F.linear(hidden, weight, bias)
    if excluded is not None:
        logits = logits.index_fill(1, torch.tensor(excluded), -torch.inf)
    return F.cross_entropy(logits, target, reduction="none")


@pytest.mark.parametrize("slice_bytes", [1, 20 * 7 * 4, 10**9])
def test_loss_and_gradients_equal_the_plain_ones(monkeypatch, slice_bytes: int, excluded) -> None:
    monkeypatch.setattr(cross_entropy, "SLICE_BYTES", slice_bytes)
    hidden, weight, bias, target, factor = inputs(torch.float32)
    ours = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    theirs = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    loss, nll = weighted_loss(*ours, target, factor, excluded)
    expected = (plain(*theirs, target, excluded) * factor).sum()
    (loss * 0.3).backward()
    (expected * 0.3).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(nll, plain(*theirs, target, excluded))
    assert not nll.requires_grad
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(token_losses(hidden, weight, bias, target, excluded), plain(*theirs, target, excluded))


def test_under_autocast_the_products_are_bfloat16_and_gradients_keep_their_type(excluded) -> None:
    hidden, weight, bias, target, factor = inputs(torch.float32)
    tensors = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = weighted_loss(*tensors, target, factor, excluded)
    loss.backward()
    expected = (plain(hidden, weight, bias, target, excluded) * factor).sum()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in tensors)


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value.double() - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("rows", [16, 48, 64, 256, 1024])
def test_in_bfloat16_the_gradients_are_as_good_as_one_product_however_many_slices(monkeypatch, rows: int) -> None:
    """Against float64 on the rounded inputs, and against all rows' gradients in one bfloat16 product."""
    m, d, v = 1000, 64, 300
    monkeypatch.setattr(cross_entropy, "SLICE_BYTES", rows * v * 4)
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*s, generator=g).bfloat16() for s in ((m, d), (v, d)))
    weight, bias = weight * 0.125, torch.randn(v, generator=g).bfloat16()
    target, factor = torch.randint(0, v, (m,), generator=g), torch.rand(m, generator=g)

    exact = [x.double().requires_grad_() for x in (hidden, weight, bias)]
    (plain(*exact, target, None) * factor).sum().backward()
    slope = torch.addmm(bias, hidden, weight.t()).float().softmax(-1) * factor.unsqueeze(1)
    slope = slope.scatter_add(1, target.unsqueeze(1), -factor.unsqueeze(1))
    at_once = relative(slope.bfloat16().t() @ hidden, exact[1].grad)

    ours = [x.float().requires_grad_() for x in (hidden, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        weighted_loss(*ours, target, factor, None)[0].backward()
    assert 1e-3 < at_once < 3e-3
    assert relative(ours[0].grad, exact[0].grad) < 3e-3
    assert relative(ours[1].grad, exact[1].grad) < 1.1 * at_once
    assert relative(ours[2].grad, exact[2].grad) < at_once
