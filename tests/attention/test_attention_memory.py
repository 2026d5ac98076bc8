"""Memory is linear in the length, and long sequences take the time their pairs take."""

from __future__ import annotations

import time

import pytest
import torch

from bd3cli.attention import block_attention
from bd3cli.bench.attention import peak_memory, saved_bytes


@pytest.fixture(params=["cpu", "aten"])
def backend(request):
    return request.param


def problem(length, heads=2, dim=16, dtype=torch.float32):
    return [torch.randn(1, 2 * length, heads, dim, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("block_size", [4, 512])
def test_saved_for_backward_is_linear(backend, block_size):
    def saved(length):
        q, k, v = problem(length)
        return saved_bytes(lambda: block_attention(q, k, v, block_size=block_size, backend=backend))

    one = saved(512)
    q = 2 * 512 * 2 * 16 * 4
    assert one == 4 * q + q // 16  # q, k, v, the output and a number a row
    assert saved(2048) == 4 * one


@pytest.mark.parametrize("block_size", [4, 1024])
def test_peak_memory_is_linear(backend, block_size):
    def peak(length):
        q, k, v = problem(length)
        grad = torch.randn_like(q)
        step = lambda: torch.autograd.grad(  # noqa: E731
            block_attention(q, k, v, block_size=min(block_size, length), backend=backend), (q, k, v), grad
        )
        step()  # scratch that is kept between calls is not this call's
        return peak_memory(step)

    # A dense mask would grow 16 times.
    assert peak(4096) < 4.5 * peak(1024)


@pytest.mark.slow
def test_saved_for_backward_up_to_8192(backend):
    def saved_per_token(length):
        q, k, v = problem(length)
        return saved_bytes(lambda: block_attention(q, k, v, block_size=4, backend=backend)) / length

    assert len({saved_per_token(length) for length in (512, 1024, 2048, 4096, 8192)}) == 1


@pytest.mark.slow
def test_time_at_8192_is_within_80_times_that_at_1024():
    def seconds(length):
        q, k, v = problem(length, heads=8, dim=64)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            block_attention(q, k, v, block_size=4, backend="cpu").sum().backward()
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds(8192) < 80 * seconds(1024)
