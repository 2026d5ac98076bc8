"""Tensor names as the published models have them, without the prefixes that wrappers add."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bd3cli.errors import InputError

PREFIX = "backbone."  # of the network's own tensors
CLIP = ("sampling_eps_min", "sampling_eps_max")  # the interval training drew times from
INSERTED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"})
OUTER = INSERTED | {"module", "_module", "_forward_module", "model", "net", "network", PREFIX.removesuffix(".")}


def published_names(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """`tensors` in their order, named as in a published ``model.safetensors``.

    torch.compile, FSDP and activation checkpointing insert a part into the names of whatever they wrap, anywhere;
    DDP, training frameworks and modules that hold the network put theirs in front. None of them is a part of a name
    inside the network.

    Raises:
        InputError: two tensors would have one name.
    """
    found: dict[str, str] = {}
    for key in tensors:
        name = unwrapped(key)
        name = name if name in CLIP else PREFIX + name
        if name in found:
            raise InputError(
                f"{source} holds {found[name]} and {key}, two tensors for {name}. Which one is meant cannot be told: "
                "take one of them out."
            )
        found[name] = key
    return {name: tensors[key] for name, key in found.items()}


def unwrapped(key: str) -> str:
    """A tensor's name inside the network."""
    *outer, last = key.split(".")
    parts = [part for part in outer if part not in INSERTED]
    while parts and parts[0] in OUTER:
        del parts[0]
    return ".".join([*parts, last])
