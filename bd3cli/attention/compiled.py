"""What `torch.compile` sees of the merging backends: one operator and its gradient, run as they are.

Their loops over parts are not for a compiler to unroll, and what surrounds them stays one graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bd3cli.attention.dispatch import choose_backend, merging_backend
from bd3cli.attention.plan import BlockPlan


@torch.library.custom_op("bd3cli::block_attention", mutates_args=())
def block_attention(q: Tensor, k: Tensor, v: Tensor, block_size: int, backend: str) -> tuple[Tensor, Tensor]:
    """The output [B, queries, H, D] and the backend's memo; arguments as of the function of this name.

    Raises:
        InputError: a backend that cannot run, or does not merge.
    """
    name = choose_backend(backend, q.device, q.dtype).name
    return merging_backend(name).forward(q, k, v, _plan(q, k, block_size))


@torch.library.custom_op("bd3cli::block_attention_backward", mutates_args=())
def block_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, memo: Tensor, block_size: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv."""
    name = choose_backend(backend, q.device, q.dtype).name
    with torch.autocast(q.device.type, enabled=False):
        return merging_backend(name).backward(grad, q, k, v, out, memo, _plan(q, k, block_size))


@block_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, block_size: int, backend: str) -> tuple[Tensor, Tensor]:
    name = choose_backend(backend, q.device, q.dtype).name
    return q.new_empty(q.shape), merging_backend(name).memo(q, _plan(q, k, block_size))


@block_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, memo: Tensor, block_size: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.block_size, ctx.backend = inputs
    ctx.save_for_backward(q, k, v, *output)


def _differentiate(ctx: Any, grad: Tensor, _memo_grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*block_attention_backward(grad, *ctx.saved_tensors, ctx.block_size, ctx.backend), None, None)


block_attention.register_autograd(_differentiate, setup_context=_save)


def _plan(q: Tensor, k: Tensor, block_size: int) -> BlockPlan:
    # int: layouts are made for one length, and a length the compiler keeps open is no key of theirs.
    return BlockPlan(int(k.shape[1]) // 2, block_size, clean_queries=bool(q.shape[1] == k.shape[1]))
