"""The backward pass over one group of heads: each part's gradients are exact given the merged result.

With P = exp(scores - merged log-sum-exp), a part's probabilities are those of the whole row, so with
delta = sum over D of grad * out:  dV = P^T grad,  dS = P * (grad V^T - delta),  dQ = dS K,  dK = dS^T Q.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.attention.cpu.forward import LOG2_E
from bd3cli.attention.cpu.layout import Layout, Part
from bd3cli.attention.cpu.scratch import Group, chunks


@dataclass(slots=True)
class _Sum:
    """Where products are stored (first) or added, and scratch for a product."""

    total: Tensor
    first: bool
    scratch: Tensor


@dataclass(slots=True)
class _Chunk:
    """Queries [I, w, D] and keys [I, s, D] of a part, and the scores [I, w, s] and their gradients."""

    q: Tensor
    grad: Tensor
    negative_lse: Tensor
    negative_delta: Tensor
    k: Tensor
    k_transposed: Tensor
    v_transposed: Tensor
    bias: Tensor | None
    p: Tensor
    p_transposed: Tensor
    ds: Tensor
    ds_transposed: Tensor
    dq: _Sum
    dk: _Sum
    dv: _Sum


class Backward:
    """Scratch for one group of heads, and every view into it that a pass needs: made once, used for each group."""

    def __init__(self, layout: Layout, group: Group) -> None:
        plan, size, dim = layout.plan, group.size, group.dim
        self._scale = dim**-0.5
        self._q, self._grad, self._dq = (group.empty(size, plan.queries, dim) for _ in range(3))
        self._k, self._v, self._dk, self._dv = (group.empty(2, size, plan.length, dim) for _ in range(4))
        self._negative_lse, self._negative_delta = (group.empty(size, plan.queries, 1) for _ in range(2))
        self._product = group.empty(size * max(plan.queries, plan.length) * dim)
        self._p, self._ds = group.empty(group.scores), group.empty(group.scores)
        parts = layout.parts(size)
        self._chunks = [chunk for part in parts for chunk in self._part(layout, group, part)]
        self._clear = not any(part.clean and part.first_for_keys for part in parts)
        tiles = (group.batch, group.heads, plan.length // layout.tile, plan.copies, layout.tile, dim)
        keys = (2, group.batch, group.heads, plan.length, dim)
        self._q_tiles, self._grad_tiles, self._dq_tiles = (x.view(tiles) for x in (self._q, self._grad, self._dq))
        self._k_heads, self._v_heads = self._k.view(keys), self._v.view(keys)
        self._dk_heads, self._dv_heads = self._dk.view(keys), self._dv.view(keys)
        self._lse_shape = self._negative_lse.shape

    def __call__(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
    ) -> None:
        """Gradients of one group; shapes as in `Forward`."""
        self._q_tiles.copy_(q)
        self._grad_tiles.copy_(grad)
        self._k_heads.copy_(k)
        self._v_heads.copy_(v)
        torch.mul(out, self._grad_tiles, out=self._dq_tiles)
        self._rows(lse.reshape(self._lse_shape))
        if self._clear:
            self._dk[1].zero_()
            self._dv[1].zero_()
        for chunk in self._chunks:
            self._differentiate(chunk)
        dq.copy_(self._dq_tiles)
        dk.copy_(self._dk_heads)
        dv.copy_(self._dv_heads)

    def _rows(self, lse: Tensor) -> None:
        """Fill -lse and -delta [G, rows, 1] from lse and from grad * out, held in the scratch of dq."""
        negative_lse = lse.neg()
        delta = self._dq.sum(-1, keepdim=True, dtype=lse.dtype)
        self._negative_lse.copy_(negative_lse)
        if self._negative_lse.dtype != lse.dtype:
            # What rounding -lse to bfloat16 took from P is a factor of the row: give it to grad and delta, in
            # which everything is linear.
            lost = negative_lse.sub_(self._negative_lse).exp2_()
            self._grad.mul_(lost)
            delta.mul_(lost)
        self._negative_delta.copy_(delta.neg_())

    def _differentiate(self, chunk: _Chunk) -> None:
        torch.baddbmm(chunk.negative_lse, chunk.q, chunk.k_transposed, alpha=self._scale * LOG2_E, out=chunk.p)
        if chunk.bias is not None:
            chunk.p.add_(chunk.bias)
        chunk.p.exp2_()
        torch.baddbmm(chunk.negative_delta, chunk.grad, chunk.v_transposed, out=chunk.ds).mul_(chunk.p)
        _add_product(chunk.dv, chunk.p_transposed, chunk.grad, 1.0)
        _add_product(chunk.dk, chunk.ds_transposed, chunk.q, self._scale)
        _add_product(chunk.dq, chunk.ds, chunk.k, self._scale)

    def _part(self, layout: Layout, group: Group, part: Part) -> list[_Chunk]:
        rows = [part.queries.of(x) for x in (self._q, self._grad, self._negative_lse, self._negative_delta, self._dq)]
        keys = [part.keys.of(x[int(part.clean)]) for x in (self._k, self._v, self._dk, self._dv)]
        bias = layout.bias(part, group.dtype)
        pieces = []
        for i, r in chunks(rows[0].shape[0], rows[0].shape[1], keys[0].shape[1], group.scores):
            q, grad, negative_lse, negative_delta, dq = (x[i, r] for x in rows)
            k, v, dk, dv = (x[i] for x in keys)
            shape = (*q.shape[:2], k.shape[1])
            p, ds = (x[: shape[0] * shape[1] * shape[2]].view(shape) for x in (self._p, self._ds))
            first_for_keys = part.first_for_keys and r.start == 0
            pieces.append(
                _Chunk(
                    q, grad, negative_lse, negative_delta, k, k.mT, v.mT, bias, p, p.mT, ds, ds.mT,
                    self._sum(dq, part.first_for_queries), self._sum(dk, first_for_keys), self._sum(dv, first_for_keys),
                )
            )  # fmt: skip
        return pieces

    def _sum(self, total: Tensor, first: bool) -> _Sum:
        return _Sum(total, first, self._product[: total.numel()].view(total.shape))


def _add_product(into: _Sum, a: Tensor, b: Tensor, alpha: float) -> None:
    """Store or add alpha * a @ b.

    A product written straight into rows that are not contiguous would be one small product per item; past a few
    items a batch into scratch and a copy are faster.
    """
    direct = into.total.shape[0] <= 4 or (into.first and into.total.is_contiguous())
    if direct:
        into.total.baddbmm_(a, b, beta=0.0 if into.first else 1.0, alpha=alpha)
    elif into.first:
        torch.mul(torch.bmm(a, b, out=into.scratch), alpha, out=into.total)
    else:
        into.total.add_(torch.bmm(a, b, out=into.scratch), alpha=alpha)
