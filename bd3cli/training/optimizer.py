"""AdamW, linear warmup and the weight average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from bd3cli.recipes.settings import Recipe, TrainConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> AdamW:
    return AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def make_warmup(optimizer: AdamW, recipe: Recipe) -> LambdaLR:
    """Linear warmup to a constant learning rate."""
    warmup = recipe.warmup_steps
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(warmup, 1)))


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average whose decay min(d, (1 + n)/(10 + n)) grows over the first updates n."""

    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(list(averages), list(values), 1 - min(decay, (1 + n) / (10 + n)))

    # the first update of AveragedModel copies the weights; n counts the ones after it
    return AveragedModel(model, multi_avg_fn=update)
