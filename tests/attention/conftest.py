"""Attention and its gradients by a backend, in the shapes of the library."""

from __future__ import annotations

import pytest
import torch

from bd3cli.attention import block_attention


@pytest.fixture
def attend():
    """`attend(backend, q, k, v, block_size=...)`: the output and dq, dk, dv for a fixed gradient of the output."""

    def run(backend, q, k, v, *, block_size):
        q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
        out = block_attention(q, k, v, block_size=block_size, backend=backend)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
        return (out.detach(), *torch.autograd.grad(out, (q, k, v), grad))

    return run


@pytest.fixture
def inputs():
    """`inputs(length, ...)`: seeded q, k, v; q holds x_t alone when `clean_queries` is false."""

    def make(length, *, batch=2, heads=3, dim=8, dtype=torch.float64, clean_queries=True, seed=0, device="cpu"):
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, 2 * length, heads, dim)
        q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(3))
        return (q if clean_queries else q[:, :length]), k, v

    return make


@pytest.fixture
def relative_error():
    """`relative_error(got, wanted)`: the largest difference over the largest magnitude.

    (Or over 0.1 where that is more: some gradients are exactly zero.)
    """

    def error(got, wanted):
        got, wanted = got.double().cpu(), wanted.double().cpu()
        return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(0.1))

    return error
