"""`bernoulli`: the paper's masking. A block draws its time t, then masks each token with probability p(t)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.errors import InputError
from bd3cli.maskings.base import MaskContext, MaskDraw, Masking, MaskNoise, lowest
from bd3cli.schedules.clip import time_interval


@dataclass(frozen=True)
class Bernoulli(Masking):
    """t uniform (or in the clip interval), independent masks with probability p(t), weight p'(t)/p(t)."""

    uses_schedule = True

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        schedule = context.schedule
        low, high = time_interval(schedule, context.clip)
        # (0, 1]: t = 0 is never drawn, where a weight may be infinite
        t = low + (high - low) * (1 - noise.time)
        drawn = schedule.noise(t)
        p = drawn.mask_prob
        maskable = context.blocks(context.maskable)
        if context.resample and context.clip is not None:
            n = maskable.sum(-1)
            k = _count_within(noise.count, n, p, context.clip)
            mask = lowest(context.blocks(noise.position), k, maskable)
        else:
            mask = (context.blocks(noise.position) < p.unsqueeze(-1)) & maskable
        return MaskDraw(mask.flatten(1), drawn)


def _count_within(u: Tensor, n: Tensor, p: Tensor, clip: tuple[float, float]) -> Tensor:
    """Masked tokens of a block given that their fraction lies in `clip`: what redrawing until it does gives.

    The count is Binomial(n, p) conditioned on the attainable k with beta <= k/n <= omega, drawn by its
    inverse distribution function from `u`; there is no loop that could run forever.
    A block too short for any k in the interval (the one holding BOS) takes its nearest k instead.

    Args:
        u: [B, N] uniforms. n: [B, N] maskable tokens. p: [B, N] mask probabilities.
    """
    beta, omega = clip
    largest = int(n.max())
    k = torch.arange(largest + 1, dtype=torch.float64)  # [K]
    total = n.double().unsqueeze(-1)
    fits = (k >= beta * total - 1e-9) & (k <= omega * total + 1e-9)
    nearest = ((k - (beta + omega) / 2 * total).abs()).argmin(-1)
    log_choose = torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma((total - k).clamp_min(0) + 1)
    q = p.double().clamp(1e-300, 1.0).unsqueeze(-1)
    log_pmf = log_choose + k * q.log() + torch.xlogy(total - k, 1 - q)
    log_pmf = log_pmf.masked_fill(~fits | (k > total), -torch.inf)
    cdf = log_pmf.softmax(-1).cumsum(-1)
    # Rounding may leave the last value a little below 1, and u above it: no count beyond the last fits.
    drawn = (cdf / cdf[..., -1:] <= u.unsqueeze(-1)).sum(-1).clamp_max(largest)
    attainable = torch.isfinite(log_pmf).any(-1)
    return torch.where(attainable, torch.where(attainable, drawn, 0), nearest)


def require_attainable(block_size: int, clip: tuple[float, float]) -> None:
    """Refuse `resample` when no k of a full block has k/block_size in the clip interval.

    Raises:
        InputError: with the interval, the block size and what to change.
    """
    beta, omega = clip
    if not any(beta - 1e-9 <= k / block_size <= omega + 1e-9 for k in range(block_size + 1)):
        raise InputError(
            f"objective.resample cannot work: with block size {block_size} no number of masked tokens has a "
            f"fraction in [{beta:g}, {omega:g}]. Widen objective.clip, or turn resample off."
        )
