"""Maskings choose which tokens of a training batch are masked, and the weight that keeps the NELBO unbiased."""

from __future__ import annotations

from bd3cli.maskings.base import Drawn, Learner, MaskContext, MaskDraw, Masking, MaskNoise, Observation
from bd3cli.maskings.count import subset_draw
from bd3cli.plugins import load_plugins

__all__ = [
    "Drawn",
    "Learner",
    "MaskContext",
    "MaskDraw",
    "MaskNoise",
    "Masking",
    "Observation",
    "get_masking",
    "subset_draw",
]


def get_masking(spec: str) -> Masking:
    """Build the masking named by an inline specification, for example ``"count"``.

    Raises:
        InputError: unknown masking or parameter, or a value the masking refuses.
    """
    masking: Masking = load_plugins().maskings.make(spec)
    return masking
