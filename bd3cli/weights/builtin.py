"""The weight that leaves the NELBO as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.weights.base import LossWeight


@dataclass(frozen=True)
class Unweighted(LossWeight):
    """w_hat = 1: the training loss estimates the NELBO itself."""

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return torch.ones_like(alpha)
