"""First-hitting sampling (Zheng et al. 2024), block by block.

Simulating the reverse process from one unmasking to the next is exact and skips the steps that change
nothing: with n masked tokens the next one to appear is uniform among them. So each evaluation reveals one
token, and a block of n tokens takes n of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bd3cli.model import Transformer
from bd3cli.sampling.base import Request, Rows, Watch
from bd3cli.sampling.choose import choose_tokens


def first_hitting(model: Transformer, request: Request, rows: Rows, watch: Watch | None = None) -> tuple[Tensor, int]:
    """Sample a ``bd3lm`` or ``mdlm`` network: tokens [B, whole blocks] and network evaluations a row."""
    mask_id, size = model.config.mask_id, model.config.block_size
    assert mask_id is not None
    device = next(model.parameters()).device
    total = -(-request.length // size) * size
    tokens = torch.full((len(rows), total), mask_id)
    tokens[:, : len(request.prompt)] = torch.tensor(request.prompt)
    cache = model.new_cache(len(rows), total)
    everyone = torch.arange(len(rows))
    nfe = 0
    for start in range(len(request.prompt) // size * size, total, size):
        stop = start + size
        # rows start from one prompt and reveal one token each, so they stay in step
        for _ in range(int((tokens[0, start:stop] == mask_id).sum())):
            # Clean tokens not in the cache yet ride along with this block's first step.
            hidden = model.extend(tokens[:, cache.length : stop].to(device), cache)[:, -size:]
            if request.cached:
                cache.length = start
            nfe += 1
            where = _uniform_masked(tokens[:, start:stop] == mask_id, rows.uniform())
            revealed = hidden[everyone.to(device), where.to(device)]
            tokens[everyone, start + where] = choose_tokens(
                model.logits(revealed),
                rows.uniform(),
                mask_id=mask_id,
                nucleus=request.nucleus,
                temperature=request.temperature,
            )
            if watch is not None:
                watch(tokens[:, :stop])
    return tokens, nfe


def _uniform_masked(masked: Tensor, u: Tensor) -> Tensor:
    """A uniformly chosen masked position [B] of each row of `masked` [B, n], by its uniform `u` [B]."""
    rank = masked.cumsum(-1)  # 1 for the first masked position, 2 for the second ...
    wanted = (u * rank[:, -1]).long() + 1
    return ((rank == wanted.unsqueeze(-1)) & masked).int().argmax(-1)
