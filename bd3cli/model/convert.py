"""Weights of one network as the start of another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bd3cli.errors import InputError
from bd3cli.model.config import TransformerConfig
from bd3cli.model.transformer import Transformer

FIXED = ("vocab_size", "mask_id", "hidden_size", "blocks", "heads")


def starting_weights(
    tensors: Mapping[str, Tensor], source: TransformerConfig, target: Transformer
) -> dict[str, Tensor]:
    """What `target` starts from when `tensors`, of a network `source`, are its first weights.

    Families with time modulation have the same tensors, whatever the block size. An ``ar`` network has none: it
    gains a modulation that changes nothing (shift 0, scale 0, gate 1, at every noise level), so that the hidden
    states are the autoregressive network's wherever the attention is causal. The rest stays as it is, the row of
    the mask token too, which was never an input. (A row of zeros starts from a lower loss, but normalising it
    multiplies its first gradient by 300; after 300 steps it was behind.)

    Raises:
        InputError: networks of other sizes, or weights that have no place in an ``ar`` network.
    """
    config = target.config
    fixed = (*FIXED, "cond_dim") if source.traits.modulated and config.traits.modulated else FIXED
    for name in fixed:
        before, after = getattr(source, name), getattr(config, name)
        if before != after:
            raise InputError(
                f"The network to start from has {name} {before}, the new one {after}. Weights only fit a network of "
                f"their own size: keep {name} as it is, or train from scratch."
            )
    if source.traits.modulated and not config.traits.modulated:
        raise InputError(
            f"The weights of family {source.family!r} have a time modulation, whose shift before attention an 'ar' "
            "network has no place for. Choose --block-size 1 --schedule full: the same loss and the same exact "
            "likelihood, with these weights."
        )
    if source.traits.modulated == config.traits.modulated:
        return dict(tensors)
    return {**unmodulated(target), **tensors}


def unmodulated(model: Transformer) -> dict[str, Tensor]:
    """The tensors of `model` that ``ar`` lacks, with the modulation set to the identity."""
    d = model.config.hidden_size
    identity = torch.cat([torch.full((d,), value) for value in (0.0, 0.0, 1.0) * 2])  # shift, scale, gate; twice
    start = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("sigma_map."):
            start[name] = tensor.detach().cpu()
        elif "adaLN_modulation" in name:
            gated = name.startswith("blocks.") and name.endswith(".bias")
            start[name] = identity if gated else torch.zeros(tensor.shape)
    return start
