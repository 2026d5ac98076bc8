"""bfloat16, autocast and threads."""

from __future__ import annotations

import pytest
import torch

from bd3cli.attention import block_attention


def rms_error(got, wanted):
    got, wanted = got.detach().double(), wanted.detach().double()
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("backend", ["cpu", "aten"])
@pytest.mark.parametrize(("length", "block_size"), [(256, 4), (256, 128), (192, 1)])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_bfloat16_is_close(backend, length, block_size, scale, attend, inputs):
    """Errors of dense bfloat16 attention here: 0.002 of the output, 0.003 to 0.004 of the gradients."""
    q, k, v = inputs(length, dim=64, dtype=torch.bfloat16)
    qkv = (q * scale, k, v)
    wanted = attend("reference", *(x.double() for x in qkv), block_size=block_size)
    out, *grads = attend(backend, *qkv, block_size=block_size)
    assert out.dtype == torch.bfloat16
    assert rms_error(out, wanted[0]) < 0.005
    for got, want in zip(grads, wanted[1:], strict=True):
        assert got.dtype == torch.bfloat16
        assert rms_error(got, want) < 0.012


@pytest.mark.parametrize("backend", ["reference", "cpu", "aten"])
def test_autocast_computes_in_its_dtype_and_gradients_keep_theirs(backend, inputs):
    q, k, v = (x.requires_grad_() for x in inputs(64, dtype=torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block_attention(q, k, v, block_size=4, backend=backend)
        out.float().square().sum().backward()  # inside autocast, as some loops do
    assert out.dtype == torch.bfloat16
    assert q.grad is not None
    assert q.grad.dtype == torch.float32
    exact = block_attention(q, k, v, block_size=4, backend="reference")
    assert rms_error(out, exact) < 0.01


def test_float64_is_left_alone_by_autocast(inputs):
    q, k, v = inputs(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block_attention(q, k, v, block_size=4).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_threads_give_the_same(dtype, attend, inputs, relative_error):
    threads = torch.get_num_threads()
    qkv = inputs(128, dtype=dtype, batch=3, heads=4)
    try:
        torch.set_num_threads(1)
        one = attend("cpu", *qkv, block_size=4)
        torch.set_num_threads(2)
        two = attend("cpu", *qkv, block_size=4)
    finally:
        torch.set_num_threads(threads)
    assert max(map(relative_error, one, two)) < (1e-5 if dtype == torch.float32 else 0.05)
