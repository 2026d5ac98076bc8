"""Rotary position embedding, rotate-half form, base 10000 (Su et al. 2021).

Two implementations of one rotation. The plain one follows the formula. The fused one, for long inputs, wants
the two coordinates of a rotation side by side, so that rotating is one complex product over contiguous
memory: several times faster than four products over short strided halves. The caller obtains that order by
permuting the rows of the query and key projections; attention scores do not notice, since both sides are
permuted alike.

Shapes: B batch, S positions, H heads, D head_dim, d = H D.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Angles(NamedTuple):
    """Rotations of S positions.

    Attributes:
        cos, sin: [S, 1, D/2] float32.
        phase: [S, d/2] complex64, the same for every head, for the fused form.
    """

    cos: Tensor
    sin: Tensor
    phase: Tensor

    def twice(self) -> Angles:
        """The rotations of two copies of the positions, one after the other."""
        return Angles(*(torch.cat((x, x)) for x in self))


class Rotary(nn.Module):
    """The frequencies, kept as a buffer because the published checkpoints do."""

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.register_buffer("inv_freq", 10000.0**-exponent)

    def forward(self, positions: Tensor, heads: int) -> Angles:
        """Rotations at integer `positions` [S]."""
        angle = positions.float().unsqueeze(-1) * self.inv_freq.float()
        cos, sin = angle.cos(), angle.sin()
        return Angles(cos.unsqueeze(1), sin.unsqueeze(1), torch.complex(cos, sin).repeat(1, heads))

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines [N, 1, D] for `turn`, on the CPU.

        The angle is a float64 product, so that positions far beyond the context lose no digits.
        """
        angle = positions.double().unsqueeze(-1) * self.inv_freq.double().cpu()
        cos, sin = angle.cos().float(), angle.sin().float()
        return torch.cat((cos, cos), -1).unsqueeze(1), torch.cat((-sin, sin), -1).unsqueeze(1)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate [B, S, H, D] in float32, keeping the dtype: the plain form, halves in the usual order."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * angles.cos - b * angles.sin, b * angles.cos + a * angles.sin), dim=-1).to(x.dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` in three operations, for generation: [N, H, D] by what `Rotary.turns` returns."""
    wide = x.float()
    return torch.addcmul(wide * cos, wide.roll(wide.shape[-1] // 2, -1), sin).to(x.dtype)


def interleaved_rows(heads: int, head_dim: int, rotated: int, kept: int) -> Tensor:
    """Rows of a fused projection in the order the fused form wants.

    The first `rotated` parts (queries, keys) of `heads * head_dim` rows each have the halves of every head
    interleaved; the `kept` parts after them (values) stay as they are.
    """
    pairs = torch.arange(rotated * heads * head_dim).view(-1, 2, head_dim // 2).transpose(1, 2).flatten()
    return torch.cat((pairs, torch.arange(kept * heads * head_dim) + len(pairs)))


def split_rotate(projected: Tensor, angles: Angles, heads: int) -> tuple[Tensor, ...]:
    """Split [B, S, n d] into n tensors [B, S, H, D], all but the last (the values) rotated: the fused form."""
    out: tuple[Tensor, ...] = _SplitRotate.apply(projected, angles.phase, heads)  # type: ignore[no-untyped-call]
    return out


class _SplitRotate(torch.autograd.Function):
    """Rotations are orthogonal: the gradient turns back by the conjugate phase."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, phase: Tensor, heads: int) -> tuple[Tensor, ...]:
        ctx.phase = phase
        width = 2 * phase.shape[1]
        *turning, values = projected.split(width, dim=-1)
        turned = [_turn(x, phase, torch.empty_like(x, memory_format=torch.contiguous_format)) for x in turning]
        return tuple(x.unflatten(-1, (heads, -1)) for x in (*turned, values.contiguous()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat = [g.flatten(2) for g in grads]
        width = flat[0].shape[-1]
        out = flat[0].new_empty(*flat[0].shape[:2], len(flat) * width)
        *turning, values = out.split(width, dim=-1)
        for g, place in zip(flat, turning, strict=False):
            _turn(g, ctx.phase.conj(), place)
        values.copy_(flat[-1])
        return out, None, None


def _turn(x: Tensor, phase: Tensor, out: Tensor) -> Tensor:
    """out = x turned by phase, for [B, S, d] with interleaved pairs; the product is float32."""
    wide = x.float()
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    if out.dtype == torch.float32:
        torch.mul(pairs, phase, out=torch.view_as_complex(out.unflatten(-1, (-1, 2))))
        return out
    product = pairs.mul_(phase) if wide is not x else pairs * phase
    return out.copy_(torch.view_as_real(product).flatten(-2))
