"""`cpu`: exact block attention on the CPU in memory linear in L and about a quarter of a dense mask's work."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from threading import get_ident
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bd3cli.attention.cpu.backward import Backward
from bd3cli.attention.cpu.forward import Forward
from bd3cli.attention.cpu.layout import FULL_PRECISION, HALF_PRECISION, Layout, layout_for, padded_length
from bd3cli.attention.cpu.scratch import Group, group_for, keys_by_head
from bd3cli.attention.plan import BlockPlan

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def unavailable(device: torch.device, dtype: torch.dtype) -> str:
    """Why this backend cannot run on a device and dtype; empty if it can."""
    if device.type != "cpu":
        return f"it computes on the CPU and the tensors are on {device}."
    if dtype not in _DTYPES:
        return f"it computes in float32, float64 and bfloat16, not {dtype}."
    return ""


def attend(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
    """Attention of q [B, queries, H, D] over k, v [B, 2L, H, D]; the result has the shape of q."""
    sizes = HALF_PRECISION if q.dtype == torch.bfloat16 else FULL_PRECISION
    length = padded_length(plan, sizes)
    if length == plan.length:
        return _attention(q, k, v, layout_for(plan, sizes))
    # Padding is whole blocks after the last: no token sees them.
    pad = length - plan.length
    q, k, v = (F.pad(x.unflatten(1, (-1, plan.length)), (0, 0, 0, 0, 0, pad)).flatten(1, 2) for x in (q, k, v))
    out = _attention(q, k, v, layout_for(replace(plan, length=length), sizes))
    cut: Tensor = out.unflatten(1, (-1, length))[:, :, : plan.length].flatten(1, 2)
    return cut


def _attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    out: Tensor = _CpuAttention.apply(q, k, v, layout)  # type: ignore[no-untyped-call]
    return out


_Workspace = TypeVar("_Workspace", Forward, Backward)


@lru_cache(maxsize=4)
def _workspace(kind: type[_Workspace], layout: Layout, group: Group, thread: int) -> _Workspace:
    """Scratch of a few megabytes kept between calls, each thread its own: fresh memory would be slower than the rest.

    A tenth of the time at L = 128. Four: the passes of a model's layers, and of its last layer.
    """
    return kind(layout, group)


class _CpuAttention(torch.autograd.Function):
    """The merged attention as one function: what it saves is q, k, v, the output and one number a row."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        group = group_for(q, layout.plan.length)
        out = torch.empty(q.shape, dtype=q.dtype)
        lse = torch.empty(q.shape[0], q.shape[2], q.shape[1], 1, dtype=group.lse_dtype)
        # Scratch never leaves, so its views need no autograd records: a fifth of the time at L = 128.
        with torch.inference_mode():
            attend_group = _workspace(Forward, layout, group, get_ident())
            q_tiles, out_tiles = layout.in_tile_order(q), layout.in_tile_order(out)
            k_heads, v_heads = keys_by_head(k), keys_by_head(v)
            for at in group.slices(q.shape[0], q.shape[2]):
                attend_group(q_tiles[at], k_heads[:, *at], v_heads[:, *at], out_tiles[at], lse[at])
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout = layout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, lse = ctx.saved_tensors
        layout: Layout = ctx.layout
        group = group_for(q, layout.plan.length)
        dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            differentiate_group = _workspace(Backward, layout, group, get_ident())
            rows = [layout.in_tile_order(x) for x in (grad, q, out, dq)]
            keys = [keys_by_head(x) for x in (k, v, dk, dv)]
            for at in group.slices(q.shape[0], q.shape[2]):
                grad_, q_, out_, dq_ = (x[at] for x in rows)
                k_, v_, dk_, dv_ = (x[:, *at] for x in keys)
                differentiate_group(grad_, q_, k_, v_, out_, lse[at], dq_, dk_, dv_)
        return dq, dk, dv, None
