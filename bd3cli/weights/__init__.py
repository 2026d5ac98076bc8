"""Loss weights: factors on the training loss as a function of the noise level. Evaluation never uses them."""

from __future__ import annotations

from bd3cli.plugins import load_plugins
from bd3cli.weights.base import LossWeight

__all__ = ["LossWeight", "get_weight"]


def get_weight(spec: str) -> LossWeight:
    """Build the loss weight named by an inline specification, for example ``"sigmoid:k=0"``.

    Raises:
        InputError: unknown weight or parameter, or a value the weight refuses.
    """
    weight: LossWeight = load_plugins().weights.make(spec)
    return weight
