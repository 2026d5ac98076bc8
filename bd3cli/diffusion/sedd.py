"""The score parameterization of SEDD with absorbing noise (Lou, Meng & Ermon 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_scores(logits: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
    """Log of the concrete score at every position, [B, L, V].

    The network's output is shifted by what the score is when nothing is known, and the score of the token
    that is there is 1.

    Args:
        logits: [B, L, V] network output, V the mask included.
        x_t: [B, L] noisy ids.
        sigma: [B] noise levels, -log(1 - p).
    """
    # expm1 keeps its digits where exp(sigma) - 1 would lose them
    shift = torch.expm1(sigma.float()).log() + math.log(logits.shape[-1] - 1)
    scores = logits.float() - shift.view(-1, 1, 1)
    return scores.scatter(-1, x_t.unsqueeze(-1), 0.0)
