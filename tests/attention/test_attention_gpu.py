"""Parity and speed on a CUDA device: `pytest -m gpu tests/attention`."""

from __future__ import annotations

import pytest
import torch

from bd3cli.attention import block_attention, choose_backend
from bd3cli.bench.attention import bench_attention, saved_bytes

pytestmark = pytest.mark.gpu
FAST = ["xformers", "aten", "flex"]


@pytest.fixture(autouse=True)
def exact_products():
    """float32 means float32 in what is compared."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def rms_error(got, wanted):
    return float((got.double().cpu() - wanted.double().cpu()).norm() / wanted.double().cpu().norm())


def test_auto_takes_xformers():
    choice = choose_backend("auto", torch.device("cuda"), torch.bfloat16)
    assert choice.name == "xformers", choice.reason


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("clean_queries", [True, False])
@pytest.mark.parametrize(
    ("length", "block_size"),
    [(1, 1), (8, 8), (128, 1), (128, 4), (96, 3), (250, 10), (512, 16), (512, 128), (512, 512), (1024, 4)],
)
def test_float32_equals_reference(backend, length, block_size, clean_queries, attend, inputs):
    qkv = inputs(length, dim=32, dtype=torch.float32, clean_queries=clean_queries)
    wanted = attend("reference", *(x.double() for x in qkv), block_size=block_size)
    got = attend(backend, *(x.cuda() for x in qkv), block_size=block_size)
    for g, w in zip(got, wanted, strict=True):
        assert g.is_cuda
        assert (g.double().cpu() - w).abs().max() < 2e-5 * max(0.1, float(w.abs().max()))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("length", "block_size"), [(256, 4), (512, 16), (512, 128), (1024, 1024), (128, 1)])
def test_half_precision_is_as_close_as_dense(backend, dtype, length, block_size, attend, inputs):
    qkv = [x.cuda() for x in inputs(length, dim=64, dtype=dtype)]
    wanted = attend("reference", *(x.double().cpu() for x in qkv), block_size=block_size)
    dense = attend("reference", *qkv, block_size=block_size)
    got = attend(backend, *qkv, block_size=block_size)
    for g, d, w in zip(got, dense, wanted, strict=True):
        assert rms_error(g, w) < 3 * rms_error(d, w) + 1e-4


@pytest.mark.parametrize("backend", ["xformers", "aten"])
@pytest.mark.parametrize("dim", [20, 64, 80, 128])
def test_head_dims_that_are_not_aligned(backend, dim, attend, inputs):
    qkv = inputs(64, dim=dim, dtype=torch.float32)
    wanted = attend("reference", *(x.double() for x in qkv), block_size=4)
    got = attend(backend, *(x.cuda() for x in qkv), block_size=4)
    assert max(rms_error(g, w) for g, w in zip(got, wanted, strict=True)) < 1e-5


@pytest.mark.parametrize("backend", ["xformers", "aten"])
def test_saved_memory_is_linear(backend):
    def saved(length):
        q = torch.randn(1, 2 * length, 4, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        return saved_bytes(lambda: block_attention(q, q, q, block_size=4, backend=backend))

    assert saved(8192) == 16 * saved(512)


@pytest.mark.parametrize("backend", ["xformers", "aten"])
def test_compiles_into_one_graph(backend, inputs):
    q, k, v = (x.cuda().requires_grad_() for x in inputs(64, dim=16, dtype=torch.float32))
    loss = lambda *x: block_attention(*x, block_size=4, backend=backend).square().sum()  # noqa: E731
    wanted = torch.autograd.grad(loss(q, k, v), (q, k, v))
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(q, k, v), (q, k, v))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_speed_over_dense_attention():
    bench = {
        backend: bench_attention(1024, 16, heads=12, batch=16, dtype="bfloat16", backend=backend, device="cuda")
        for backend in ("xformers", "flex")
    }
    assert bench["xformers"]["ratio"] >= 5
    assert bench["xformers"]["seconds"] <= 1.05 * bench["flex"]["seconds"]
