"""`flex`: PyTorch's FlexAttention with the mask of `bd3cli.attention.plan`, on CUDA; for comparison."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bd3cli.attention.plan import BlockPlan


def unavailable(device: torch.device, dtype: torch.dtype) -> str:
    """Why this backend cannot run on a device and dtype; empty if it can."""
    if device.type != "cuda":
        return f"FlexAttention has a backward pass on CUDA only and the tensors are on {device}."
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"FlexAttention computes in float32, float16 and bfloat16, not {dtype}."
    return ""


def attend(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
    """Attention of q [B, queries, H, D] over k, v [B, 2L, H, D]; the result has the shape of q."""
    out: Tensor = _compiled()(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=_mask(plan, q.device))
    return out.transpose(1, 2)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=4)
def _mask(plan: BlockPlan, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return plan.visible(query, key)

    with torch.inference_mode(False):
        return create_block_mask(visible, None, None, plan.queries, plan.keys, device=device)
