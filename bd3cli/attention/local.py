"""Attention near the diagonal: each block over itself and over the later part of the previous clean block.

The remainder of `bd3cli.attention.split`: key j of the previous clean block and query i of a block, both counted
within their blocks, are left to it where j > i. Dense batched matrix products, 2 L' keys a query.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from bd3cli.attention.merged import lse_dtype
from bd3cli.attention.plan import HIDDEN, BlockPlan


def forward(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, scale: float) -> tuple[Tensor, Tensor]:
    """The output [B, queries, H, D] and log-sum-exp [B, queries, H] of the local pairs of all queries."""
    scores = _scores(_queries(q, plan), _keys(k, plan), plan, scale)
    lse = scores.logsumexp(-1)
    p = scores.sub_(lse.unsqueeze(-1)).exp_().to(q.dtype)
    return _from_blocks(p @ _keys(v, plan)), _from_blocks(lse.unsqueeze(-1)).squeeze(-1)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: BlockPlan, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of the local pairs, given the output and log-sum-exp over all keys."""
    qs, grads, ks, vs = _queries(q, plan), _queries(grad, plan), _keys(k, plan), _keys(v, plan)
    delta = (grad.to(lse.dtype) * out).sum(-1, keepdim=True)
    p = _scores(qs, ks, plan, scale).sub_(_queries(lse.unsqueeze(-1), plan)).exp_()
    ds = (grads @ vs.mT).to(lse.dtype).sub_(_queries(delta, plan)).mul_(p).mul_(scale).to(q.dtype)
    dk, dv = (_keys_gradient(x, plan) for x in (ds.mT @ qs, p.to(q.dtype).mT @ grads))
    return _from_blocks(ds @ ks), dk, dv


def _scores(qs: Tensor, ks: Tensor, plan: BlockPlan, scale: float) -> Tensor:
    """[B, H, copies, n, L', 2 L'], hidden pairs at about `HIDDEN`."""
    return (qs @ ks.mT).to(lse_dtype(qs.dtype)).mul_(scale).add_(_bias(plan, qs.device, lse_dtype(qs.dtype)))


@lru_cache(maxsize=16)
def _bias(plan: BlockPlan, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[n, L', 2 L']: all of the own block, the strict upper triangle of the previous, of which the first has none."""
    size, count = plan.block_size, plan.length // plan.block_size
    with torch.inference_mode(False):  # or a bias first made in inference mode could never be trained with
        bias = torch.zeros(count, size, 2 * size, dtype=dtype, device=device)
        bias[:, :, size:].masked_fill_(torch.ones(size, size, dtype=torch.bool, device=device).tril_(), HIDDEN)
        bias[0, :, size:] = HIDDEN
        return bias


def _blocks(x: Tensor, plan: BlockPlan) -> Tensor:
    """x [B, copies * L, H, D] as [B, H, copies, n, L', D]."""
    view: Tensor = x.unflatten(1, (-1, plan.length // plan.block_size, plan.block_size)).permute(0, 4, 1, 2, 3, 5)
    return view


def _queries(x: Tensor, plan: BlockPlan) -> Tensor:
    return _blocks(x, plan)


def _keys(x: Tensor, plan: BlockPlan) -> Tensor:
    """The keys of the queries' blocks, [B, H, copies, n, 2 L', D]: the own block, then the previous clean one."""
    own = _blocks(x, plan)
    previous = own[:, :, 1:].roll(1, dims=3).expand_as(own)
    return torch.cat([own, previous], dim=-2)[:, :, : plan.copies]


def _keys_gradient(x: Tensor, plan: BlockPlan) -> Tensor:
    """The gradient [B, 2L, H, D] of what `_keys` took, from the gradient of what it gave."""
    own, previous = x.split(plan.block_size, dim=-2)
    total = x.new_zeros(*x.shape[:2], 2, *own.shape[3:])
    total[:, :, : plan.copies] = own
    total[:, :, 1].add_(previous.sum(2).roll(-1, dims=2))
    return _from_blocks(total)


def _from_blocks(x: Tensor) -> Tensor:
    """x [B, H, copies, n, L', D] as [B, copies * L, H, D]."""
    return x.permute(0, 2, 3, 4, 1, 5).flatten(1, 3)
