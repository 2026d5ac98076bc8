"""Checkpoints of the paper's code while it trains: Lightning ``.ckpt`` files, raw and averaged weights in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bd3cli.errors import InputError
from bd3cli.model.formats.pickled import Inert, load_pickled
from bd3cli.model.names import PREFIX, published_names
from bd3cli.model.state import BUFFERS
from bd3cli.recipes.families import NAMES


@dataclass(frozen=True)
class LightningCheckpoint:
    """What is used of such a file.

    Attributes:
        tensors: the raw weights, keys as in a published ``model.safetensors``.
        averaged: the same with the moving average in place of every parameter; None when it holds none.
        step: optimizer steps.
        settings: dotted key -> value of the configuration it was trained with, as far as it can be read.
    """

    tensors: dict[str, Tensor]
    averaged: dict[str, Tensor] | None
    step: int
    settings: dict[str, Any]


def read_lightning(path: Path) -> LightningCheckpoint:
    """Read a ``.ckpt``; whatever is no tensor or container stays inert, see `bd3cli.model.formats.pickled`.

    Raises:
        InputError: not such a file, or its average does not fit its weights.
    """
    content = load_pickled(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        found = ", ".join(sorted(map(str, content))[:8]) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path} is not a Lightning checkpoint: it has no 'state_dict' (it holds: {found}).")
    odd = [str(key) for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if odd:
        raise InputError(f"{path}: state_dict holds what is no tensor: {', '.join(odd[:5])}.")
    tensors = {key: value.contiguous() for key, value in published_names(state, str(path)).items()}
    average = content.get("ema")
    shadow = average.get("shadow_params") if isinstance(average, dict) else None
    step = content.get("global_step")
    return LightningCheckpoint(
        tensors=tensors,
        averaged=None if shadow is None else apply_average(tensors, shadow, str(path)),
        step=step if type(step) is int and step >= 0 else 0,
        settings=settings(content.get("hyper_parameters")),
    )


def apply_average(tensors: dict[str, Tensor], shadow: Any, source: str) -> dict[str, Tensor]:
    """`tensors` with the averages in place of the parameters.

    The averages are a list in the order of the network's parameters, which is the order of the state.

    Raises:
        InputError: they are not as many, or not of the same shapes.
    """
    names = [key for key in tensors if key.startswith(PREFIX) and key.removeprefix(PREFIX) not in BUFFERS]
    if not isinstance(shadow, Sequence) or not all(isinstance(value, Tensor) for value in shadow):
        raise InputError(f"{source}: ema.shadow_params is not a list of tensors.")
    if len(shadow) != len(names):
        raise InputError(
            f"{source}: ema.shadow_params has {len(shadow)} tensors for {len(names)} parameters, so it cannot be "
            "told which is which."
        )
    for name, value in zip(names, shadow, strict=True):
        if value.shape != tensors[name].shape:
            raise InputError(
                f"{source}: the average of {name} is {list(value.shape)} instead of {list(tensors[name].shape)}."
            )
    return tensors | {name: value.contiguous() for name, value in zip(names, shadow, strict=True)}


def settings(hyper_parameters: Any) -> dict[str, Any]:
    """Dotted key -> plain value of an OmegaConf configuration that was pickled, read as data."""
    found: dict[str, Any] = {}

    def walk(node: Any, key: str, depth: int) -> None:
        if isinstance(node, Inert) and isinstance(node.state, dict):  # type: ignore[attr-defined]
            state: dict[Any, Any] = node.state  # type: ignore[attr-defined]
            node = state.get("_content", state.get("_val"))
        if isinstance(node, dict) and depth < 8:
            for name, value in node.items():
                if isinstance(name, str):
                    walk(value, f"{key}.{name}" if key else name, depth + 1)
        elif isinstance(node, (str, int, float, bool)):
            found[key] = node

    config = hyper_parameters.get("config") if isinstance(hyper_parameters, dict) else None
    walk(config, "", 0)
    return {key: _interpolated(value, found) for key, value in found.items()}


def _interpolated(value: Any, found: dict[str, Any]) -> Any:
    """A value that refers to another key, ``${model.length}``, as that one's."""
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        return found.get(value[2:-1], value)
    return value


def described(settings: dict[str, Any]) -> dict[str, Any]:
    """`model_type`, `model_length`, `block_size`, ... as in a published ``config.json``, as far as they are known."""
    name = settings.get("algo.name", settings.get("parameterization", settings.get("algo.parameterization")))
    names = {
        "model_type": {"subs": "mdlm"}.get(str(name), name),
        "model_length": settings.get("model.length"),
        "block_size": settings.get("block_size", settings.get("algo.block_size")),
        "dropout": settings.get("model.dropout"),
        "time_conditioning": settings.get("algo.time_conditioning", settings.get("time_conditioning")),
    }
    numbers = ("model_length", "block_size")
    known = {k: v for k, v in names.items() if v is not None and not (k in numbers and type(v) is not int)}
    if known.get("model_type") not in NAMES:
        known.pop("model_type", None)
    return known


def measured(tensors: dict[str, Tensor], source: str) -> dict[str, Any]:
    """The sizes of a published ``config.json``, from the shapes of the tensors.

    Raises:
        InputError: a tensor that tells them is missing.
    """
    try:
        vocab_size, hidden = tensors[f"{PREFIX}vocab_embed.embedding"].shape
        (half,) = tensors[f"{PREFIX}rotary_emb.inv_freq"].shape
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{source} is not of this architecture: it lacks {PREFIX}vocab_embed.embedding or "
            f"{PREFIX}rotary_emb.inv_freq (it has {', '.join(list(tensors)[:3])}, ...)."
        ) from error
    blocks = {key.split(".")[2] for key in tensors if key.startswith(f"{PREFIX}blocks.")}
    condition = tensors.get(f"{PREFIX}sigma_map.mlp.2.bias")
    return {
        "vocab_size": vocab_size,
        "hidden_dim": hidden,
        "n_heads": hidden // max(2 * half, 1),
        "n_blocks": len(blocks),
        "cond_dim": 128 if condition is None else len(condition),
        "causal": condition is None,
    }
