"""Read checkpoints in the layout of the paper's released models (``config.json`` + ``model.safetensors``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bd3cli.errors import InputError, did_you_mean
from bd3cli.model.config import Family, TransformerConfig
from bd3cli.model.state import load_tensors
from bd3cli.model.transformer import Transformer

PREFIX = "backbone."
FAMILIES: tuple[Family, ...] = ("ar", "sedd", "mdlm", "bd3lm")


def is_upstream(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "model.safetensors").is_file()


def load_upstream(path: str | Path, attention: str = "auto") -> Transformer:
    """Build the network described by ``config.json`` and load its weights strictly.

    Raises:
        InputError: missing or unreadable file, unsupported configuration, or weights that do not fit.
    """
    folder = Path(path)
    config = upstream_config(_read_json(folder / "config.json"), str(folder / "config.json"))
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights} cannot be read as safetensors: {error}.") from error
    model = Transformer(config, attention)
    load_tensors(model, network_tensors(tensors), str(weights))
    return model.eval()


def network_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors, without the prefix; the recorded clip interval is not a weight."""
    own = {name: value for name, value in tensors.items() if not name.startswith("sampling_eps_")}
    return {name.removeprefix(PREFIX): value for name, value in own.items()}


def upstream_config(raw: dict[str, Any], source: str) -> TransformerConfig:
    """Translate the upstream configuration.

    Raises:
        InputError: a field is missing or means a network that is not supported.
    """
    try:
        family = raw["model_type"]
        if family not in FAMILIES:
            raise InputError(f"model_type {family!r} is none of {', '.join(FAMILIES)}.{did_you_mean(family, FAMILIES)}")
        length, vocab = int(raw["model_length"]), int(raw["vocab_size"])
        block_size = {"ar": 1, "bd3lm": int(raw.get("block_size", 1))}.get(family, length)
        causal = bool(raw.get("causal", family == "ar"))
        modulated = bool(raw.get("adaln", not causal))
        if causal != (family == "ar") or modulated == causal:
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
