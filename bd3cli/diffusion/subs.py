"""The SUBS parameterization over whole sequences (Sahoo et al. 2024, section 3.2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

COPIED = -1_000_000.0  # log-probability of "impossible", finite so that sums and differences stay defined


def subs_log_probs(logits: Tensor, x_t: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities [B, L, V]: no mass on the mask token, and unmasked tokens carried over.

    Args:
        logits: [B, L, V] network output.
        x_t: [B, L] noisy tokens the network saw.
    """
    logits = logits.float().clone()
    logits[..., mask_id] = COPIED
    log_probs = logits.log_softmax(-1)
    copied = torch.full_like(log_probs, COPIED).scatter_(-1, x_t.unsqueeze(-1), 0.0)
    return torch.where((x_t == mask_id).unsqueeze(-1), log_probs, copied)
