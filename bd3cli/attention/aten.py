"""`aten`: the split of `bd3cli.attention.split` over PyTorch's own fused attention, on CUDA and on the CPU."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bd3cli.attention import split
from bd3cli.attention.merged import lse_memo as memo  # noqa: F401 - see `merged.MergingBackend`
from bd3cli.attention.plan import BlockPlan

_CAUSAL_FROM_TOP_LEFT = 1  # custom_mask_type of the CUDA kernels


def unavailable(device: torch.device, dtype: torch.dtype) -> str:
    """Why this backend cannot run on a device and dtype; empty if it can."""
    if device.type == "cpu":
        allowed = (torch.float32, torch.float64, torch.bfloat16)
        return "" if dtype in allowed else f"on the CPU it computes in float32, float64 and bfloat16, not {dtype}."
    if device.type != "cuda":
        return f"PyTorch has no memory-efficient attention on {device.type}."
    return _failure(device, dtype)


def forward(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> tuple[Tensor, Tensor]:
    """See `merged.MergingBackend`."""
    return split.forward(q, k, v, plan, _kernels(q.device))


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: BlockPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """See `merged.MergingBackend`."""
    return split.backward(grad, q, k, v, out, lse, plan, _kernels(q.device))


def _kernels(device: torch.device) -> split.Kernels:
    return CpuKernels() if device.type == "cpu" else CudaKernels()


@lru_cache(maxsize=16)
def _failure(device: torch.device, dtype: torch.dtype) -> str:
    return split.failure(CudaKernels(), device, dtype)


class CpuKernels:
    """PyTorch's fused attention for CPUs."""

    align = 1

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """See `split.Kernels`."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        return out.transpose(1, 2), lse.transpose(1, 2)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `split.Kernels`."""
        tensors = (x.transpose(1, 2) for x in (grad, q, k, v, out, lse))
        run = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        dq, dk, dv = run(*tensors, 0.0, causal, scale=scale)
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


class CudaKernels:
    """PyTorch's memory-efficient (cutlass) attention: float32, float16 and bfloat16, up to compute capability 9.0."""

    align = 8

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """See `split.Kernels`."""
        out, lse, *_ = torch.ops.aten._efficient_attention_forward(
            q, k, v, None, None, None, None, None, 0.0, _CAUSAL_FROM_TOP_LEFT if causal else 0, True, scale=scale
        )
        return out, lse[..., : q.shape[1]].transpose(1, 2)  # padded to a multiple of 32

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `split.Kernels`."""
        rows = q.shape[1]
        padded = F.pad(lse.transpose(1, 2), (0, -rows % 32), value=math.inf).contiguous()
        unused = torch.empty(0, dtype=torch.int64, device=q.device)  # the random state, for dropout
        dq, dk, dv, _ = torch.ops.aten._efficient_attention_backward(
            grad, q, k, v, None, out, None, None, rows, k.shape[1], padded, 0.0, unused, unused,
            _CAUSAL_FROM_TOP_LEFT if causal else 0, False, scale=scale,
        )  # fmt: skip
        return dq, dk, dv
