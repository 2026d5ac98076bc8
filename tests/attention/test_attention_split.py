"""The split into causal calls and a local remainder, and its kernels as far as they can be tried without a GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bd3cli.attention import aten, local, split, xformers
from bd3cli.attention.plan import HIDDEN, BlockPlan, dense_mask


def tokens(runs, i):
    start = runs.start + i * runs.stride
    return torch.arange(start, start + runs.width)


def times_attended(plan):
    """[queries, 2L]: how often each pair attends, in kernel calls and in the local remainder."""
    count = torch.zeros(plan.queries, plan.keys, dtype=torch.long)
    for part in split.parts(plan):
        for i in range(part.queries.count):
            query = tokens(part.queries, i)[:, None] + part.copy * plan.length
            key = tokens(part.keys, i)[None, :] + part.key_copy * plan.length
            seen = torch.ones(query.numel(), key.numel(), dtype=torch.bool)
            count[query, key] += (seen.tril() if part.causal else seen).long()
    if plan.block_size <= split.WIDEST_LOCAL:
        # Keys that carry their own index show which keys the local remainder takes.
        index = torch.arange(plan.keys, dtype=torch.float64)[None, :, None, None]
        keys = local._keys(index, plan)[0, 0, ..., 0].long()  # [copies, n, 2 L']
        seen = local._bias(plan, torch.device("cpu"), torch.float64) > HIDDEN / 2  # [n, L', 2 L']
        rows = torch.arange(plan.queries).view(plan.copies, -1, plan.block_size)
        for copy, block in torch.cartesian_prod(torch.arange(plan.copies), torch.arange(rows.shape[1])).view(-1, 2):
            at = torch.broadcast_tensors(rows[copy, block][:, None], keys[copy, block][None, :])
            count.index_put_(at, seen[block].long(), accumulate=True)  # a hidden key may come twice
    return count


@given(length=st.integers(1, 300), clean_queries=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_hold_each_visible_pair_once(length, clean_queries, data):
    size = data.draw(st.sampled_from([b for b in range(1, length + 1) if length % b == 0]))
    plan = BlockPlan(length, size, clean_queries)
    assert torch.equal(times_attended(plan), dense_mask(plan).long())


def through(kernels, attend, qkv, block_size, monkeypatch):
    monkeypatch.setattr(aten, "_kernels", lambda device: kernels)
    return attend("aten", *qkv, block_size=block_size)


class XopsTwin:
    """The public functions that xformers exposes, with its conventions, over PyTorch's CPU attention."""

    class LowerTriangularMask:
        pass

    def __init__(self):
        self.kernels = aten.CpuKernels()

    def memory_efficient_attention_forward_requires_grad(self, query, key, value, attn_bias=None, *, scale):
        assert attn_bias is None or query.shape == key.shape, "causal calls are square"
        out, lse = self.kernels.forward(query, key, value, causal=attn_bias is not None, scale=scale)
        return out, torch.nn.functional.pad(lse.transpose(1, 2), (0, -query.shape[1] % 32), value=torch.nan)

    def memory_efficient_attention_backward(self, grad, output, lse, query, key, value, attn_bias=None, *, scale):
        assert lse.shape == (query.shape[0], query.shape[2], query.shape[1])
        assert grad.is_contiguous()
        assert lse.is_contiguous()
        assert output.is_contiguous()
        lse = lse.transpose(1, 2)
        causal = attn_bias is not None
        return self.kernels.backward(grad, query, key, value, output, lse, causal=causal, scale=scale)


@pytest.mark.parametrize("dim", [8, 5])
@pytest.mark.parametrize(("length", "block_size"), [(48, 1), (48, 4), (96, 48), (210, 70), (40, 40)])
@pytest.mark.parametrize("clean_queries", [True, False])
def test_xformers_calls(length, block_size, dim, clean_queries, attend, inputs, relative_error, monkeypatch):
    twin = XopsTwin()
    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace(ops=twin))
    monkeypatch.setitem(sys.modules, "xformers.ops", twin)
    qkv = inputs(length, dim=dim, clean_queries=clean_queries)
    got = through(xformers.XformersKernels(), attend, qkv, block_size, monkeypatch)
    wanted = attend("reference", *qkv, block_size=block_size)
    assert max(map(relative_error, got, wanted)) < 1e-10


class EfficientAttentionTwin(TorchDispatchMode):
    """PyTorch's CUDA attention operators on the CPU; arguments have been matched to their declarations before this."""

    kernels = aten.CpuKernels()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._efficient_attention_forward.default:
            q, k, v, *unused, dropout, mask, with_lse = args
            assert unused == [None] * 5
            assert dropout == 0
            assert with_lse
            out, lse = self.kernels.forward(q, k, v, causal=mask == 1, scale=kwargs["scale"])
            lse = torch.nn.functional.pad(lse.transpose(1, 2), (0, -q.shape[1] % 32), value=torch.nan)
            return out, lse, torch.empty(()), torch.empty(()), q.shape[1], k.shape[1]
        if func is torch.ops.aten._efficient_attention_backward.default:
            grad, q, k, v, bias, out, _, _, rows, keys, lse, dropout, _, _, mask, bias_grad = args
            assert (bias, rows, keys, dropout, bias_grad) == (None, q.shape[1], k.shape[1], 0, False)
            assert lse.shape[2] % 32 == 0
            assert lse[..., rows:].isposinf().all()
            lse = lse[..., :rows].transpose(1, 2)
            return *self.kernels.backward(grad, q, k, v, out, lse, causal=mask == 1, scale=kwargs["scale"]), None
        return func(*args, **kwargs)


@pytest.mark.parametrize("dim", [8, 5])
@pytest.mark.parametrize(("length", "block_size"), [(48, 1), (48, 4), (96, 48), (210, 70), (40, 40)])
def test_pytorch_cuda_calls(length, block_size, dim, attend, inputs, relative_error, monkeypatch):
    qkv = inputs(length, dim=dim)
    wanted = attend("reference", *qkv, block_size=block_size)
    with EfficientAttentionTwin():
        got = through(aten.CudaKernels(), attend, qkv, block_size, monkeypatch)
    assert max(map(relative_error, got, wanted)) < 1e-10


def test_failure_says_what_went_wrong():
    class Broken(aten.CpuKernels):
        def forward(self, q, k, v, *, causal, scale):
            raise NotImplementedError("No operator found for this.\nLong list follows.")

    why = split.failure(Broken(), torch.device("cpu"), torch.float32)
    assert "fails with NotImplementedError: No operator found for this." in why
    assert "\n" not in why
    assert split.failure(aten.CpuKernels(), torch.device("cpu"), torch.float32) == ""
