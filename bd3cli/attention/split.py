"""Block attention from kernels that know no mask but the causal one, as GPU libraries offer.

A block of L' tokens sees the clean tokens of all earlier blocks. Shifted by one block, causal attention over the
clean tokens covers most of that: token t over tokens 0 ... t - L', one square causal call for each copy, with none
of it wasted. What it misses is near the diagonal, at most 2 L' keys a query: the token's own block, and the
tokens of the previous block that come later within the block than t does (`bd3cli.attention.local`).

Wide blocks have too much near the diagonal to hold its scores. They are few, so each sees its own block in one call
without a mask, and earlier blocks by halves: every odd run of S tokens over the even run before it, for S = L', 2 L',
4 L' ...

The parts are merged by log-sum-exp, and each part's gradients are exact when its kernel is given the merged output
and log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bd3cli.attention import local
from bd3cli.attention.merged import lse_dtype
from bd3cli.attention.plan import BlockPlan
from bd3cli.attention.strides import Runs, halves

WIDEST_LOCAL = 64
"""Blocks up to this size are split into causal calls and a local remainder, wider ones by halves."""


class Kernels(Protocol):
    """Plain attention over q, k, v [b, m, H, D], causal from the first row or without a mask."""

    align: int
    """What D must be a multiple of."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """The output [b, m, H, D] and the log-sum-exp of its scores, [b, m, H]."""

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dq, dk, dv, for an output and log-sum-exp that may include keys this call does not see."""


@dataclass(frozen=True)
class Part:
    """One kernel call: runs of tokens of one copy over as many runs of clean (or the copy's own) tokens."""

    copy: int
    queries: Runs
    key_copy: int
    keys: Runs
    causal: bool = False


def parts(plan: BlockPlan) -> Iterator[Part]:
    """The calls of a plan, those that hold every query first; narrow blocks' local remainder is not among them."""
    length, size = plan.length, plan.block_size
    if size <= WIDEST_LOCAL:
        if size < length:
            for copy in range(plan.copies):
                yield Part(copy, Runs(size, 1, 0, length - size), 1, Runs(0, 1, 0, length - size), causal=True)
        return
    blocks = Runs(0, length // size, size, size)
    for copy in range(plan.copies):
        yield Part(copy, blocks, copy, blocks)
    for queries, keys in halves(length, size):
        for copy in range(plan.copies):
            yield Part(copy, queries, 1, keys)


def forward(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, kernels: Kernels) -> tuple[Tensor, Tensor]:
    """The output [B, queries, H, D] and natural log-sum-exp [B, queries, H]."""
    scale, dim = q.shape[-1] ** -0.5, q.shape[-1]
    q, k, v = (_aligned(x, kernels) for x in (q, k, v))
    calls = list(parts(plan))
    if plan.block_size <= WIDEST_LOCAL:
        out, lse = local.forward(q, k, v, plan, scale)
    else:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=lse_dtype(q.dtype), device=q.device)
        calls, first = calls[plan.copies :], calls[: plan.copies]
        for part in first:
            partial, partial_lse = _call(part, q, k, v, plan, kernels, scale)
            _rows(out, part.copy, part.queries, plan).copy_(partial)
            _rows(lse, part.copy, part.queries, plan).copy_(partial_lse)
    for part in calls:
        partial, partial_lse = _call(part, q, k, v, plan, kernels, scale)
        at = part.copy, part.queries, plan
        _merge(_rows(out, *at), _rows(lse, *at), partial, partial_lse)
    return out[..., :dim].contiguous(), lse.contiguous()


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: BlockPlan, kernels: Kernels
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv, of the shapes of q, k and v."""
    scale, dim = q.shape[-1] ** -0.5, q.shape[-1]
    grad, q, k, v, out = (_aligned(x, kernels) for x in (grad, q, k, v, out))
    if plan.block_size <= WIDEST_LOCAL:
        dq, dk, dv = local.backward(grad, q, k, v, out, lse, plan, scale)
    else:
        dq, dk, dv = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    for part in parts(plan):
        rows, keys = (part.copy, part.queries, plan), (part.key_copy, part.keys, plan)
        grad_, q_, out_, lse_ = (_flat(_rows(x, *rows)) for x in (grad, q, out, lse))
        k_, v_ = (_flat(_rows(x, *keys)) for x in (k, v))
        pieces = kernels.backward(grad_, q_, k_, v_, out_, lse_, causal=part.causal, scale=scale)
        for total, at, piece in zip((dq, dk, dv), (rows, keys, keys), pieces, strict=True):
            view = _rows(total, *at)
            view.add_(piece.reshape(view.shape))
    dq, dk, dv = (x[..., :dim].contiguous() for x in (dq, dk, dv))
    return dq, dk, dv


def failure(kernels: Kernels, device: torch.device, dtype: torch.dtype) -> str:
    """Why kernels cannot run on a device and dtype, from running them on a small problem; empty if they can."""
    try:
        q = torch.zeros(1, 32, 1, 16, device=device, dtype=dtype)
        out, lse = kernels.forward(q, q, q, causal=True, scale=1.0)
        kernels.backward(out, q, q, q, out, lse, causal=True, scale=1.0)
    except Exception as error:  # a missing or broken extension fails in many ways
        lines = str(error).strip().splitlines() or [""]
        return f"on {device} in {dtype} it fails with {type(error).__name__}: {lines[0].rstrip('.')}."
    return ""


def _call(
    part: Part, q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, kernels: Kernels, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [B, runs, width, H, D] and log-sum-exp [B, runs, width, H] of one part."""
    rows = _rows(q, part.copy, part.queries, plan)
    keys, values = (_flat(_rows(x, part.key_copy, part.keys, plan)) for x in (k, v))
    out, lse = kernels.forward(_flat(rows), keys, values, causal=part.causal, scale=scale)
    return out.reshape(rows.shape), lse.reshape(rows.shape[:-1])


def _rows(x: Tensor, copy: int, runs: Runs, plan: BlockPlan) -> Tensor:
    """Runs of one copy of x [B, copies * L, H, ...] as a view [B, runs, width, H, ...]."""
    return runs.along(x.narrow(1, copy * plan.length, plan.length), 1).movedim(-1, 2)


def _aligned(x: Tensor, kernels: Kernels) -> Tensor:
    """x [..., D] with zeros appended to D as the kernels need."""
    return F.pad(x, (0, -x.shape[-1] % kernels.align)) if x.shape[-1] % kernels.align else x


def _flat(x: Tensor) -> Tensor:
    """x [B, runs, width, H, ...] with every run a batch row, [B * runs, width, H, ...]."""
    return x.flatten(0, 1)


def _merge(out: Tensor, lse: Tensor, partial: Tensor, partial_lse: Tensor) -> None:
    """Merge attention over more keys into views out [..., D] and its log-sum-exp lse [...]."""
    merged = torch.logaddexp(lse, partial_lse)
    weight = torch.exp(partial_lse - merged).unsqueeze(-1)
    out.copy_(torch.lerp(out.to(weight.dtype), partial.to(weight.dtype), weight))
    lse.copy_(merged)
