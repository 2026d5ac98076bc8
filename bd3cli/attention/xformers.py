"""`xformers`: the split of `bd3cli.attention.split` over xformers' memory-efficient attention, on CUDA."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from bd3cli.attention import split
from bd3cli.attention.merged import lse_memo as memo  # noqa: F401 - see `merged.MergingBackend`
from bd3cli.attention.plan import BlockPlan


def unavailable(device: torch.device, dtype: torch.dtype) -> str:
    """Why this backend cannot run on a device and dtype; empty if it can. Only a CUDA device imports xformers."""
    if device.type != "cuda":
        return f"xformers' kernels are for CUDA and the tensors are on {device}."
    return _failure(device, dtype)


def forward(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> tuple[Tensor, Tensor]:
    """See `merged.MergingBackend`."""
    return split.forward(q, k, v, plan, XformersKernels())


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: BlockPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """See `merged.MergingBackend`."""
    return split.backward(grad, q, k, v, out, lse, plan, XformersKernels())


@lru_cache(maxsize=16)
def _failure(device: torch.device, dtype: torch.dtype) -> str:
    return split.failure(XformersKernels(), device, dtype)


class XformersKernels:
    """xformers' public functions; it picks the kernel: flash attention where installed, else cutlass."""

    align = 8

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """See `split.Kernels`."""
        import xformers.ops as xops

        bias = xops.LowerTriangularMask() if causal else None
        out, lse = xops.memory_efficient_attention_forward_requires_grad(q, k, v, attn_bias=bias, scale=scale)
        return out, lse[..., : q.shape[1]].transpose(1, 2)  # cutlass pads to a multiple of 32

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `split.Kernels`."""
        import xformers.ops as xops

        bias = xops.LowerTriangularMask() if causal else None
        dq, dk, dv = xops.memory_efficient_attention_backward(
            grad.contiguous(),
            out.contiguous(),
            lse.transpose(1, 2).contiguous(),
            q,
            k,
            v,
            attn_bias=bias,
            scale=scale,
        )
        return dq, dk, dv
