"""Draw one token from logits, in float64: float32 noise would quietly act as a lower temperature."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_tokens(
    logits: Tensor, u: Tensor, *, mask_id: int | None, nucleus: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """Inverse-distribution sampling: token ids [B] for logits [B, V] and uniforms `u` [B].

    The mask token is never chosen. The nucleus keeps the token that crosses the threshold, so it is never
    empty (Holtzman et al. 2020); what it keeps is renormalised.
    """
    logits = logits.double().cpu()
    if mask_id is not None:
        logits[:, mask_id] = -torch.inf
    probs = (logits / temperature).softmax(-1)
    if nucleus < 1.0:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        probs = torch.zeros_like(probs).scatter_(-1, order, ordered.masked_fill(before >= nucleus, 0.0))
    cumulative = probs.cumsum(-1)
    target = u.unsqueeze(-1) * cumulative[:, -1:]
    # the first token whose cumulative probability exceeds u; never one of probability zero, not even when
    # the product above rounds up to the total
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).minimum(last)
