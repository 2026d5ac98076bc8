"""The forward pass over one group of heads: part by part, merged by log-sum-exp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bd3cli.attention.cpu.layout import Layout, Part
from bd3cli.attention.cpu.scratch import Group, chunks
from bd3cli.attention.merged import lse_dtype

LOG2_E = math.log2(math.e)
_fused_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(slots=True)
class _Chunk:
    """Queries [I, w, D] and keys [I, s, D] of a part whose scores [I, w, s] are held together.

    `masked` is the last scores, where some pairs are hidden, and the bias that hides them.
    """

    q: Tensor
    k_transposed: Tensor
    v: Tensor
    scores: Tensor
    masked: tuple[Tensor, Tensor] | None
    unnormalised: Tensor
    out: Tensor
    lse: Tensor


@dataclass(slots=True)
class _Batch:
    """One part: queries [I, w, D] over keys [I, s, D], the rows of the result, and scratch for a partial one."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    first: bool
    out: Tensor
    lse: Tensor
    partial: Tensor
    partial_lse: Tensor
    chunks: list[_Chunk]


class Forward:
    """Scratch for one group of heads, and every view into it that a pass needs: made once, used for each group.

    Log-sum-exps are in base 2, of scores times log2 e: unlike `exp`, `exp2` has no slow path for the large
    negative numbers of hidden pairs.
    """

    def __init__(self, layout: Layout, group: Group) -> None:
        plan, size, dim = layout.plan, group.size, group.dim
        self._scale = dim**-0.5
        # Fused CPU attention is the faster in bfloat16, and keeps its scores in float32; in float32 batched
        # matrix products are the faster.
        self._fused = group.dtype == torch.bfloat16
        self._q, self._out = group.empty(size, plan.queries, dim), group.empty(size, plan.queries, dim)
        self._k, self._v = group.empty(size, plan.length, dim), group.empty(size, plan.length, dim)
        self._lse = torch.empty(size, plan.queries, 1, dtype=lse_dtype(group.dtype))
        self._partial = group.empty(size * plan.queries * dim)
        self._partial_lse = torch.empty(size * plan.queries, dtype=lse_dtype(group.dtype))
        self._scores = group.empty(0 if self._fused else group.scores)
        parts = layout.parts(size)
        self._batches = {
            clean: [self._batch(layout, group, part) for part in parts if part.clean is clean]
            for clean in layout.phases
        }
        # The same memory in the shape of what is copied from and to it.
        tiles = (group.batch, group.heads, plan.length // layout.tile, plan.copies, layout.tile, dim)
        keys = (group.batch, group.heads, plan.length, dim)
        self._q_tiles, self._out_tiles = self._q.view(tiles), self._out.view(tiles)
        self._k_heads, self._v_heads = self._k.view(keys), self._v.view(keys)
        self._lse_tiles = self._lse.view(*tiles[:-1], 1)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
        """Attention of one group: q, out, lse [b, h, tiles, copies, tile, D or 1], k, v [2, b, h, L, D]."""
        self._q_tiles.copy_(q)
        for clean, batches in self._batches.items():
            self._k_heads.copy_(k[int(clean)])
            self._v_heads.copy_(v[int(clean)])
            for batch in batches:
                if self._fused:
                    self._attend_fused(batch)
                else:
                    self._attend(batch)
        out.copy_(self._out_tiles)
        lse.copy_(self._lse_tiles)

    def _attend(self, batch: _Batch) -> None:
        for chunk in batch.chunks:
            scores = chunk.scores.baddbmm_(chunk.q, chunk.k_transposed, beta=0, alpha=self._scale * LOG2_E)
            if chunk.masked is not None:
                chunk.masked[0].add_(chunk.masked[1])
            top = scores.amax(-1, keepdim=True)
            total = scores.sub_(top).exp2_().sum(-1, keepdim=True)
            torch.bmm(scores, chunk.v, out=chunk.unnormalised)
            torch.div(chunk.unnormalised, total, out=chunk.out)
            torch.add(top, total.log2_(), out=chunk.lse)
        if not batch.first:
            _merge(batch.out, batch.lse, batch.partial, batch.partial_lse)

    def _attend_fused(self, batch: _Batch) -> None:
        partial, lse = _fused_attention(
            batch.q[None], batch.k[None], batch.v[None], 0.0, False, attn_mask=batch.bias, scale=self._scale
        )
        partial, lse = partial[0], lse[0].unsqueeze(-1) * LOG2_E
        if batch.first:
            batch.out.copy_(partial)
            batch.lse.copy_(lse)
        else:
            _merge(batch.out, batch.lse, partial, lse)

    def _batch(self, layout: Layout, group: Group, part: Part) -> _Batch:
        q, out, lse = (part.queries.batch(x) for x in (self._q, self._out, self._lse))
        k, v = (part.keys.batch(x) for x in (self._k, self._v))
        items, rows, keys = q.shape[0], q.shape[1], k.shape[1]
        partial = self._partial[: q.numel()].view(q.shape)
        partial_lse = self._partial_lse[: lse.numel()].view(lse.shape)
        first, bias = part.first_for_queries, layout.bias(part, group.dtype)
        if self._fused and bias is not None:
            bias = F.pad(bias, (keys - bias.shape[1], 0))
        target, target_lse = (out, lse) if first else (partial, partial_lse)
        pieces = []
        for i, r in () if self._fused else chunks(items, rows, keys, group.scores):
            piece = q[i, r]
            scores = self._scores[: piece.shape[0] * piece.shape[1] * keys].view(*piece.shape[:2], keys)
            masked = None if bias is None else (scores[..., -bias.shape[1] :], bias)
            pieces.append(_Chunk(piece, k[i].mT, v[i], scores, masked, partial[i, r], target[i, r], target_lse[i, r]))
        return _Batch(q, k, v, bias, first, out, lse, partial, partial_lse, pieces)


def _merge(out: Tensor, lse: Tensor, partial: Tensor, partial_lse: Tensor) -> None:
    """Merge attention over more keys into out [I, w, D] and its base-2 log-sum-exp lse [I, w, 1]."""
    torch.logaddexp2(lse, partial_lse, out=lse)
    weight = partial_lse.sub_(lse).exp2_()
    out.lerp_(partial, weight.to(out.dtype))
