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
    """Where a product is stored (first) or added, and scratch for it."""

    total: Tensor
    first: bool
    scratch: Tensor


@dataclass(slots=True)
class _Chunk:
    """Queries [I, w, D] and keys [I, s, D] of a part; probabilities and gradients of scores [I, w, s].

    `masked` is as in the forward pass.
    """

    q: Tensor
    grad: Tensor
    lse: Tensor
    delta: Tensor
    k: Tensor
    k_transposed: Tensor
    v_transposed: Tensor
    p: Tensor
    masked: tuple[Tensor, Tensor] | None
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
        self._k, self._v, self._dk, self._dv = (group.empty(size, plan.length, dim) for _ in range(4))
        self._lse, self._delta = (group.empty(size, plan.queries, 1) for _ in range(2))
        self._product = group.empty(size * max(plan.queries, plan.length) * dim)
        self._p, self._ds = group.empty(group.scores), group.empty(group.scores)
        parts = layout.parts(size)
        self._chunks = {
            clean: [chunk for part in parts if part.clean is clean for chunk in self._part(layout, group, part)]
            for clean in layout.phases
        }
        # Noisy queries alone may leave the last clean keys unseen.
        self._clear = {clean: not any(p.first_for_keys for p in parts if p.clean is clean) for clean in layout.phases}
        tiles = (group.batch, group.heads, plan.length // layout.tile, plan.copies, layout.tile, dim)
        keys = (group.batch, group.heads, plan.length, dim)
        self._q_tiles, self._grad_tiles, self._dq_tiles = (x.view(tiles) for x in (self._q, self._grad, self._dq))
        self._k_heads, self._v_heads = self._k.view(keys), self._v.view(keys)
        self._dk_heads, self._dv_heads = self._dk.view(keys), self._dv.view(keys)
        self._lse_tiles = self._lse.view(*tiles[:-1], 1)

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
        self._lse_tiles.copy_(lse)
        torch.mul(out, self._grad_tiles, out=self._dq_tiles)
        torch.sum(self._dq, -1, keepdim=True, out=self._delta)
        if self._lse.dtype != lse.dtype:
            self._give_back_rounding(lse)
        for clean, pieces in self._chunks.items():
            self._k_heads.copy_(k[int(clean)])
            self._v_heads.copy_(v[int(clean)])
            if self._clear[clean]:
                self._dk.zero_()
                self._dv.zero_()
            for chunk in pieces:
                self._differentiate(chunk)
            torch.mul(self._dk_heads, self._scale, out=dk[int(clean)])
            dv[int(clean)].copy_(self._dv_heads)
        torch.mul(self._dq_tiles, self._scale, out=dq)

    def _give_back_rounding(self, lse: Tensor) -> None:
        """What rounding lse to bfloat16 did to P is a factor of the row: give it to grad and delta instead."""
        lost = self._lse_tiles.sub(lse).exp2_().view(self._lse.shape)
        self._grad.mul_(lost)
        self._delta.mul_(lost)

    def _differentiate(self, chunk: _Chunk) -> None:
        torch.baddbmm(chunk.lse, chunk.q, chunk.k_transposed, beta=-1, alpha=self._scale * LOG2_E, out=chunk.p)
        if chunk.masked is not None:
            chunk.masked[0].add_(chunk.masked[1])
        chunk.p.exp2_()
        torch.baddbmm(chunk.delta, chunk.grad, chunk.v_transposed, beta=-1, out=chunk.ds).mul_(chunk.p)
        _add_product(chunk.dv, chunk.p_transposed, chunk.grad)
        _add_product(chunk.dk, chunk.ds_transposed, chunk.q)
        _add_product(chunk.dq, chunk.ds, chunk.k)

    def _part(self, layout: Layout, group: Group, part: Part) -> list[_Chunk]:
        rows = [part.queries.batch(x) for x in (self._q, self._grad, self._lse, self._delta, self._dq)]
        keys = [part.keys.batch(x) for x in (self._k, self._v, self._dk, self._dv)]
        bias = layout.bias(part, group.dtype)
        pieces = []
        for i, r in chunks(rows[0].shape[0], rows[0].shape[1], keys[0].shape[1], group.scores):
            q, grad, lse, delta, dq = (x[i, r] for x in rows)
            k, v, dk, dv = (x[i] for x in keys)
            shape = (*q.shape[:2], k.shape[1])
            p, ds = (x[: shape[0] * shape[1] * shape[2]].view(shape) for x in (self._p, self._ds))
            masked = None if bias is None else (p[..., -bias.shape[1] :], bias)
            sums = [self._sum(dq, part.first_for_queries)]
            sums += [self._sum(x, part.first_for_keys and r.start == 0) for x in (dk, dv)]
            pieces.append(_Chunk(q, grad, lse, delta, k, k.mT, v.mT, p, masked, p.mT, ds, ds.mT, *sums))
        return pieces

    def _sum(self, total: Tensor, first: bool) -> _Sum:
        return _Sum(total, first, self._product[: total.numel()].view(total.shape))


def _add_product(into: _Sum, a: Tensor, b: Tensor) -> None:
    """Store or add a @ b.

    Written straight into rows that are not contiguous it would be one small product per item: past a few items a
    batch into scratch and a copy are faster.
    """
    if into.first and into.total.is_contiguous():
        torch.bmm(a, b, out=into.total)
    elif into.total.shape[0] <= 4:
        into.total.baddbmm_(a, b, beta=0 if into.first else 1)
    elif into.first:
        into.total.copy_(torch.bmm(a, b, out=into.scratch))
    else:
        into.total.add_(torch.bmm(a, b, out=into.scratch))
