"""The parts of the transformer. Shapes: B batch, S positions, d hidden, c cond_dim, V vocabulary."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Layer normalisation with a weight and no bias, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight)


class Embedding(nn.Module):
    """Token embedding held as a bare parameter, [V, d]."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, width))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding)


class TimeEmbedding(nn.Module):
    """MLP over 256 sinusoidal features of the noise level sigma: [B] -> [B, c]."""

    FEATURES = 256

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.FEATURES, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        half = self.FEATURES // 2
        step = torch.arange(half, dtype=torch.float32, device=sigma.device) / half
        angle = sigma.float().unsqueeze(-1) * torch.exp(-math.log(10000.0) * step)
        out: Tensor = self.mlp(torch.cat((angle.cos(), angle.sin()), dim=-1))
        return out


FEW = 32  # rows up to which `few_rows` pays


def few_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer [n, out] of a few rows [n, in], without gradients.

    Computed as W xᵀ: BLAS libraries then go through a large W once, at the speed of memory, for 1 to 8 rows
    alike; asked for x Wᵀ they take two to four times as long.
    """
    return torch.addmm(bias.unsqueeze(1), weight, x.t()).t().contiguous()


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts as the zero map."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: x (1 + scale) + shift, with [B or 1, 1, d] modulation."""
    return torch.addcmul(shift, x, 1 + scale)
