"""Read and write checkpoints in the layout of the paper's released models (``config.json`` + ``model.safetensors``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bd3cli.errors import InputError, did_you_mean
from bd3cli.model.config import TransformerConfig
from bd3cli.model.names import CLIP, PREFIX, published_names
from bd3cli.model.state import load_tensors, require_same
from bd3cli.model.transformer import Transformer, expected_tensors
from bd3cli.recipes.families import NAMES, get_family

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIZES = {
    "model_length": 1 << 24,
    "block_size": 1 << 24,
    "vocab_size": 1 << 24,
    "hidden_dim": 1 << 16,
    "cond_dim": 1 << 16,
    "n_blocks": 1 << 10,
    "n_heads": 1 << 10,
}  # the most of each that is believed, before anything of that size is made


def is_upstream(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def load_upstream(path: str | Path, attention: str = "auto") -> Transformer:
    """Build the network described by ``config.json`` and load its weights strictly.

    Raises:
        InputError: missing or unreadable file, unsupported configuration, or weights that do not fit.
    """
    raw, tensors = read_upstream(Path(path))
    config, own = upstream_config(raw, str(Path(path) / CONFIG)), network_tensors(tensors)
    require_same(expected_tensors(config), own, str(Path(path) / WEIGHTS))
    model = Transformer(config, attention)
    load_tensors(model, own, str(Path(path) / WEIGHTS))
    return model.eval()


def read_upstream(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration as it is written, and the tensors with their published names.

    Raises:
        InputError: missing or unreadable file, or two tensors of one name.
    """
    raw, weights = _read_json(folder / CONFIG), folder / WEIGHTS
    try:
        return raw, published_names(load_file(weights), str(weights))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights} cannot be read as safetensors: {error}.") from error


def write_upstream(
    folder: Path,
    config: TransformerConfig,
    tensors: dict[str, Tensor],
    clip: tuple[float, float] | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Write a network in this layout.

    Args:
        folder: an absent or empty directory.
        tensors: the network's own, without the prefix.
        clip: the interval training drew times from, kept as two more tensors; None for all of them.
        settings: fields of ``config.json`` that take the place of our own.

    Raises:
        InputError: the directory is in use, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists and is not empty. Choose another --out.")
    raw = described(config) | {"var_min": clip is not None}
    own = {PREFIX + name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    if clip is not None:
        raw |= dict(zip(CLIP, clip, strict=True))
        own |= {name: torch.tensor(bound) for name, bound in zip(CLIP, clip, strict=True)}
    raw |= settings or {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(own, folder / WEIGHTS, metadata={"format": "pt"})  # the hub's loaders ask for the format
        (folder / CONFIG).write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder} cannot be written: {error}. Choose another --out.") from error


def described(config: TransformerConfig) -> dict[str, Any]:
    """The fields of ``config.json``."""
    return {
        "model_type": config.family,
        "architectures": ["BD3LM"],
        "attn_backend": "sdpa",
        "block_size": config.block_size,
        "cond_dim": config.cond_dim,
        "cross_attn": config.traits.reads_clean,
        "dropout": config.dropout,
        "hidden_dim": config.hidden_size,
        "model_length": config.length,
        "n_blocks": config.blocks,
        "n_heads": config.heads,
        "sampling_eps_min": 1e-3,
        "sampling_eps_max": 1.0,
        "time_conditioning": config.time_conditioning,
        "vocab_size": config.vocab_size,
    }


def network_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors, without the prefix; the recorded clip interval is not a weight."""
    own = {name: value for name, value in tensors.items() if name not in CLIP}
    return {name.removeprefix(PREFIX): value for name, value in own.items()}


def upstream_config(raw: dict[str, Any], source: str) -> TransformerConfig:
    """Translate the upstream configuration.

    Raises:
        InputError: a field is missing or means a network that is not supported.
    """
    try:
        family = raw["model_type"]
        if family not in NAMES:
            raise InputError(f"model_type {family!r} is none of {', '.join(NAMES)}.{did_you_mean(family, NAMES)}")
        traits = get_family(family)
        for name, most in SIZES.items():
            if not 1 <= int(raw.get(name, 1)) <= most:
                raise InputError(f"{name} is {raw[name]!r}; it must be a whole number from 1 to {most}.")
        length, vocab = int(raw["model_length"]), int(raw["vocab_size"])
        block_size = traits.block_size(int(raw.get("block_size", 1)), length)
        causal = bool(raw.get("causal", traits.causal))
        modulated = bool(raw.get("adaln", not causal))
        if causal != traits.causal or modulated != traits.modulated:
            raise InputError(
                f"causal={causal}, adaln={modulated} is not a network of family {family!r} "
                "(ar: causal without adaln; the others: adaln, not causal)."
            )
        return TransformerConfig(
            family=family,
            vocab_size=vocab,
            mask_id=vocab - 1,
            length=length,
            block_size=block_size,
            hidden_size=int(raw["hidden_dim"]),
            blocks=int(raw["n_blocks"]),
            heads=int(raw["n_heads"]),
            cond_dim=int(raw["cond_dim"]),
            dropout=float(raw.get("dropout", 0.0)),
            time_conditioning=bool(raw.get("time_conditioning", False)),
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except KeyError as error:
        raise InputError(f"{source} lacks {error.args[0]!r}, which the upstream layout requires.") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{source} holds a value of the wrong type: {error}.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(raw).__name__}.")
    return raw
