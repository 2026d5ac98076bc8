"""The training step the way the paper's research code does it, for comparison.

A dense mask over both halves, logits for all 2L positions of all layers, and an optimizer and weight average
that loop over the parameters. The numbers are the same; only the work differs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bd3cli.attention import block_attention
from bd3cli.diffusion.batch import Batch
from bd3cli.model import Transformer


def reference_loss(model: Transformer, batch: Batch, length: int) -> Tensor:
    """Sum of weight * -log p over the masked tokens, from logits [B, 2L, V]."""
    assert batch.x_0 is not None
    angles = model.rotary_emb(torch.arange(length), model.config.heads).twice()
    *modulations, head = model.modulation(None, batch.x_t.device)
    x = model.vocab_embed(torch.cat((batch.x_t, batch.x_0), dim=1))
    for block, modulation in zip(model.layers, modulations, strict=True):
        q, k, v = block.qkv_plain(x, modulation, angles)
        attended = block_attention(q, k, v, block_size=model.config.block_size, backend="reference")
        x = block.update(x, attended, modulation)
    logits = model.logits(model.output_layer.normalise(x, head))[:, :length].float()
    if model.config.mask_id is not None:
        logits = logits.index_fill(-1, torch.tensor(model.config.mask_id), -1e6)
    log_probs = logits - logits.logsumexp(-1, keepdim=True)
    targets = torch.zeros(batch.x_t.numel(), dtype=torch.long).index_put((batch.index,), batch.target)
    weights = torch.zeros(batch.x_t.numel()).index_put((batch.index,), batch.weight.float())
    nll = -log_probs.flatten(0, 1).gather(1, targets.unsqueeze(1)).squeeze(1)
    return (nll * weights).sum()


class LoopedAverage:
    """An exponential moving average updated parameter by parameter."""

    def __init__(self, model: Transformer, decay: float = 0.9999) -> None:
        self.decay = decay
        self.values = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: Transformer) -> None:
        for average, parameter in zip(self.values, model.parameters(), strict=True):
            average.sub_((1 - self.decay) * (average - parameter))


def unfused_optimizer(model: Transformer) -> torch.optim.AdamW:
    """AdamW one parameter at a time."""
    return torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0, foreach=False, fused=False)
