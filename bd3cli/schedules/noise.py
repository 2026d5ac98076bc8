"""How noisy some times are: the record that schedules give and that loss weights and maskings share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Mask probability, its slope and the NELBO weight at some times, floating-point tensors of one shape.

    Attributes:
        mask_prob: p, the probability that a token is masked.
        rate: dp/dt.
        weight: what the summed -log p of the masked tokens is multiplied by to estimate the NELBO: p'/p for most
            schedules.
    """

    mask_prob: Tensor
    rate: Tensor
    weight: Tensor

    @staticmethod
    def linear(mask_prob: Tensor, weight: Tensor | None = None) -> Noise:
        """The noise of masks that come from no time: it is taken to be the mask rate, p(t) = t, of slope 1.

        Args:
            mask_prob: share of the tokens that is masked.
            weight: same shape; 1 / `mask_prob` by default, as p'/p.
        """
        return Noise(mask_prob, torch.ones_like(mask_prob), 1 / mask_prob if weight is None else weight)

    @property
    def alpha(self) -> Tensor:
        """1 - p, the probability that a token is kept."""
        return 1 - self.mask_prob

    @property
    def dalpha_dt(self) -> Tensor:
        """The time derivative of `alpha`."""
        return -self.rate
