"""Every backend that runs here equals `reference`: outputs and all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bd3cli.attention import BACKENDS, block_attention, choose_backend
from bd3cli.errors import InputError


def runnable(device="cpu", dtype=torch.float64):
    names = []
    for name in BACKENDS:
        try:
            choose_backend(name, torch.device(device), dtype)
        except InputError:
            continue
        names.append(name)
    return [name for name in names if name != "reference"]


def divisors(length):
    return [b for b in range(1, length + 1) if length % b == 0]


@st.composite
def problems(draw, longest):
    length = draw(st.integers(1, longest))
    return {
        "length": length,
        "block_size": draw(st.sampled_from(divisors(length))),
        "batch": draw(st.integers(1, 5)),
        "heads": draw(st.sampled_from([1, 2, 3, 5, 7, 8])),
        "dim": draw(st.sampled_from([1, 4, 8, 20])),
        "clean_queries": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.parametrize("backend", runnable())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@given(problem=problems(longest=160))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equals_reference(backend, dtype, tolerance, problem, attend, inputs, relative_error):
    block_size = problem.pop("block_size")
    qkv = inputs(**problem, dtype=dtype)
    wanted = attend("reference", *(x.double() for x in qkv), block_size=block_size)
    got = attend(backend, *qkv, block_size=block_size)
    for g, w in zip(got, wanted, strict=True):
        assert g.shape == w.shape
        assert g.dtype == dtype
        assert relative_error(g, w) < tolerance


@pytest.mark.parametrize("backend", runnable())
@pytest.mark.parametrize("clean_queries", [True, False])
def test_equals_reference_for_every_block_size(backend, clean_queries, attend, inputs, relative_error):
    qkv = inputs(384, batch=1, dim=4, clean_queries=clean_queries)
    for block_size in divisors(384):
        wanted = attend("reference", *qkv, block_size=block_size)
        got = attend(backend, *qkv, block_size=block_size)
        assert max(map(relative_error, got, wanted)) < 1e-10, block_size


@pytest.mark.slow
@pytest.mark.parametrize("backend", runnable())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@given(problem=problems(longest=512))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equals_reference_up_to_512(backend, dtype, tolerance, problem, attend, inputs, relative_error):
    block_size = problem.pop("block_size")
    qkv = inputs(**problem, dtype=dtype)
    wanted = attend("reference", *(x.double() for x in qkv), block_size=block_size)
    got = attend(backend, *qkv, block_size=block_size)
    assert max(map(relative_error, got, wanted)) < tolerance


@pytest.mark.parametrize("backend", runnable())
@pytest.mark.parametrize(("length", "block_size"), [(1, 1), (6, 2), (8, 8), (12, 1), (34, 17), (40, 4)])
def test_gradcheck(backend, length, block_size, inputs):
    qkv = [x.requires_grad_() for x in inputs(length, batch=1, heads=2, dim=2)]
    assert torch.autograd.gradcheck(
        lambda q, k, v: block_attention(q, k, v, block_size=block_size, backend=backend),
        qkv,
        fast_mode=length > 12,
    )


@pytest.mark.parametrize("backend", runnable(dtype=torch.float32))
def test_large_scores_neither_overflow_nor_lose_rows(backend, attend, inputs, relative_error):
    q, k, v = inputs(64, dtype=torch.float32)
    wanted = attend("reference", q.double() * 60, k.double(), v.double(), block_size=4)
    got = attend(backend, q * 60, k, v, block_size=4)
    assert all(torch.isfinite(g).all() for g in got)
    assert relative_error(got[0], wanted[0]) < 1e-4


@pytest.mark.parametrize("backend", runnable())
@pytest.mark.parametrize("block_size", [4, 64])
def test_strided_inputs_and_gradients(backend, block_size, inputs, relative_error):
    """As a model gives them: q, k and v are slices of one projection, the gradient is expanded or transposed."""
    q, k, v = inputs(64)
    joint = torch.stack([q, k, v], dim=2).requires_grad_()
    out = block_attention(*joint.unbind(2), block_size=block_size, backend=backend)
    out.sum().backward()
    plain = joint.detach().clone().requires_grad_()
    block_attention(*plain.unbind(2), block_size=block_size, backend="reference").sum().backward()
    assert joint.grad is not None
    assert relative_error(joint.grad, plain.grad) < 1e-10


@pytest.mark.parametrize("backend", runnable())
def test_only_what_needs_a_gradient_gets_one(backend, inputs):
    q, k, v = inputs(16)
    v.requires_grad_()
    block_attention(q, k, v, block_size=4, backend=backend).sum().backward()
    assert q.grad is None
    assert v.grad is not None


@pytest.mark.parametrize("backend", runnable())
def test_no_grad_and_inference_mode_give_the_same_and_leave_training_possible(backend, inputs):
    q, k, v = inputs(32)
    with torch.inference_mode():
        first = block_attention(q, k, v, block_size=4, backend=backend).clone()
    with torch.no_grad():
        second = block_attention(q, k, v, block_size=4, backend=backend)
    q.requires_grad_()
    third = block_attention(q, k, v, block_size=4, backend=backend)
    third.sum().backward()
    assert torch.equal(first, second)
    assert torch.equal(second, third.detach())


@pytest.mark.parametrize("backend", runnable())
def test_bitwise_repeatable(backend, attend, inputs):
    qkv = inputs(96, dtype=torch.float32)
    first, second = (attend(backend, *qkv, block_size=4) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("backend", runnable())
def test_empty_batch(backend):
    q = torch.randn(0, 16, 2, 4, requires_grad=True)
    out = block_attention(q, q, q, block_size=4, backend=backend)
    out.sum().backward()
    assert out.shape == q.shape
