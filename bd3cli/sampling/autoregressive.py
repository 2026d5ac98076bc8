"""Token by token, left to right."""

from __future__ import annotations

import torch
from torch import Tensor

from bd3cli.model import Transformer
from bd3cli.sampling.base import Request, Rows, Watch
from bd3cli.sampling.choose import choose_tokens


def autoregressive(model: Transformer, request: Request, rows: Rows, watch: Watch | None = None) -> tuple[Tensor, int]:
    """Sample an ``ar`` network: tokens [B, length] and network evaluations a row, one a new token."""
    device = next(model.parameters()).device
    tokens = torch.tensor(request.prompt).repeat(len(rows), 1)
    cache = model.new_cache(len(rows), request.length)
    nfe = 0
    while tokens.shape[1] < request.length:
        pending = tokens[:, cache.length :]
        hidden = model.extend(pending.to(device), cache)
        if request.cached:
            cache.length += pending.shape[1]
        nfe += 1
        new = choose_tokens(
            model.logits(hidden[:, -1]),
            rows.uniform(),
            mask_id=model.config.mask_id,
            nucleus=request.nucleus,
            temperature=request.temperature,
        )
        tokens = torch.cat((tokens, new.unsqueeze(1)), dim=1)
        if watch is not None:
            watch(tokens)
    return tokens, nfe
