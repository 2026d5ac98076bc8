"""`simple`: the weight that cancels the NELBO's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.schedules import Noise
from bd3cli.weights import LossWeight


@dataclass(frozen=True)
class Simple(LossWeight):
    """-(1 - alpha) / alpha' = p / p': every masked token counts alike, whatever the mask rate.

    It depends on the schedule's rate, each entry on its own. Under ``loglinear`` it equals ``sigmoid:k=0``.
    """

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return (alpha - 1) / dalpha_dt

    def scaled(self, noise: Noise) -> Tensor:
        # w is p'/p times a factor (one over the sweeps, an importance weight); the product is that factor.
        # Where p' vanishes, or 1 - alpha has lost the digits of p, nothing is left of it but its usual value.
        factor = noise.weight * (noise.alpha - 1) / noise.dalpha_dt
        known = torch.isfinite(factor) & (1 - noise.alpha > 1e-8)
        return torch.where(known, factor, torch.ones_like(factor))
