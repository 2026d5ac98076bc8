"""The noise level that a time-conditioned network is given: one value a sequence."""

from __future__ import annotations

import math

import torch
from scipy.special import betaincinv
from torch import Tensor

from bd3cli.maskings import MaskDraw

LARGEST_SIGMA = -math.log(1e-3)  # of the published models; p = 1 has none, and none above p = 0.999 was trained


def noise_level(mask_prob: Tensor) -> Tensor:
    """sigma = -log(1 - p), at most `LARGEST_SIGMA`; same shape as `mask_prob`."""
    return (-torch.log1p(-mask_prob)).clamp_max(LARGEST_SIGMA)


def posterior_mask_prob(masked: Tensor, maskable: Tensor, u: Tensor) -> Tensor:
    """Mask probabilities [B] drawn given that `masked` of `maskable` tokens [B] are masked, by uniforms `u` [B].

    The NELBO weighs a mask of k of n tokens at rate p by 1/p times its probability, so that given the mask the
    rate is Beta(k, n - k + 1):

        int_0^1 (1/p) p^k (1-p)^(n-k) f(p) dp = 1 / (k binom(n, k)) E[f(p)],    p ~ Beta(k, n - k + 1).

    The factor is what a masking without a time gives each mask of k tokens. So drawing k and the mask first, as such
    a masking does, and the rate after them is unbiased for networks that see the rate too.
    """
    k = masked.clamp_min(1).double()
    return torch.from_numpy(betaincinv(k.numpy(), (maskable - k + 1).clamp_min(1).numpy(), u.numpy()))


def sequence_sigma(draw: MaskDraw, maskable: Tensor, u: Tensor, *, drew_time: bool) -> Tensor:
    """The noise level [B] to tell the network about each sequence of a draw with one block.

    Args:
        maskable: [B, L] bool.
        u: [B] float64 uniforms in [0, 1), independent of the draw.
        drew_time: the masks come from a time, whose mask probability the draw holds; else it is drawn from `u`.
    """
    if drew_time:
        return noise_level(draw.noise.mask_prob.squeeze(1))
    return noise_level(posterior_mask_prob(draw.mask.sum(1), maskable.sum(1), u))
