"""Strict loading of weights: one that is missing, left over or of another shape is an error."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bd3cli.errors import InputError

BUFFERS = ("rotary_emb.inv_freq",)  # tensors of a network's state that are not parameters


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into `module`; `source` names them in messages.

    Raises:
        InputError: listing every missing, unexpected and mis-shaped tensor.
    """
    require_fit(module, tensors, source)
    module.load_state_dict(dict(tensors))


def require_fit(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse `tensors` that are not exactly those of `module`; see `load_tensors`."""
    require_same(module.state_dict(), tensors, source)


def require_same(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """`require_fit` for a network that is not made: the `expected` tensors may be on the meta device."""
    problems = [f"{label}: {', '.join(items)}" for label, items in mismatches(expected, tensors).items() if items]
    if problems:
        raise InputError(
            f"{source} does not fit this network. {'; '.join(problems)}. "
            "Check that the checkpoint and its configuration belong together."
        )


def mismatches(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What is missing, unexpected and of the wrong shape among `tensors`."""
    return {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "wrong shape": [
            f"{name} is {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
            for name in sorted(expected.keys() & tensors.keys())
            if tensors[name].shape != expected[name].shape
        ],
    }


def count_parameters(tensors: Mapping[str, Tensor]) -> int:
    """Numbers that training changes."""
    return sum(tensor.numel() for name, tensor in tensors.items() if name not in BUFFERS)


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values in name order: independent of the file's layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
