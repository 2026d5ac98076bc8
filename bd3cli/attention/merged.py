"""Autograd for backends that merge partial attentions by log-sum-exp.

Such a backend is a pair of functions: `forward` gives the output and a memo, as a rule a log-sum-exp a row, and
`backward` the gradients from them. Nothing else is kept between the two, and a memo holds at most as many numbers as
q, k and v do, so what a layer saves for the backward pass is linear in L.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bd3cli.attention.plan import BlockPlan


class MergingBackend(Protocol):
    """Shapes: q, grad, out, dq [B, queries, H, D]; k, v, dk, dv [B, 2L, H, D].

    Results are contiguous.
    """

    def memo(self, q: Tensor, plan: BlockPlan) -> Tensor:
        """An empty tensor of the shape and dtype of what `forward` keeps for `backward` beside the output."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> tuple[Tensor, Tensor]:
        """The output and the memo; what is in it is the backend's own affair."""

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, memo: Tensor, plan: BlockPlan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dq, dk and dv."""


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the log-sum-exps of attention in `dtype`: at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def lse_memo(q: Tensor, plan: BlockPlan) -> Tensor:
    """The memo of backends that keep a log-sum-exp a row, [B, queries, H]."""
    return q.new_empty(q.shape[:3], dtype=lse_dtype(q.dtype))


def attend(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, backend: MergingBackend) -> Tensor:
    """Attention of q over k, v by `backend`, differentiable once in each."""
    out: Tensor = _Merged.apply(q, k, v, plan, backend)  # type: ignore[no-untyped-call]
    return out


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, backend: MergingBackend) -> Tensor:
        out, memo = backend.forward(q, k, v, plan)
        ctx.save_for_backward(q, k, v, out, memo)
        ctx.plan, ctx.backend = plan, backend
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            grads = ctx.backend.backward(grad, *ctx.saved_tensors, ctx.plan)
        return (*grads, None, None)
