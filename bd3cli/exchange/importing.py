"""Import a checkpoint of another program as a run that can be evaluated, sampled from and finetuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bd3cli.data import load_tokenizer
from bd3cli.errors import InputError
from bd3cli.model.config import network_config
from bd3cli.model.formats.lightning import described, measured, read_lightning
from bd3cli.model.formats.upstream import WEIGHTS, is_upstream, network_tensors, read_upstream, upstream_config
from bd3cli.model.names import CLIP
from bd3cli.model.state import count_parameters, require_same, weights_sha256
from bd3cli.model.transformer import expected_tensors
from bd3cli.recipes.families import NAMES, get_family
from bd3cli.recipes.resolve import Resolved, resolve
from bd3cli.runs.checkpoint import file_sha256
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory, new_record
from bd3cli.runs.records import Imported

TOKENIZERS = {50258: "gpt2", 30522: "hf:bert-base-uncased", 259: "bytes"}
RECIPES = {"gpt2": "owt", "hf:bert-base-uncased": "lm1b"}  # the data of the paper's models, by their tokenizer
UNCLIPPED = (float(torch.tensor(1e-3)), 1.0)
DROP = ("model_type", "model_length", "block_size")  # what --family, --length and --block-size say


@dataclass(frozen=True)
class Foreign:
    """What was read of a checkpoint.

    Attributes:
        format: ``huggingface`` or ``lightning``.
        settings: fields of its ``config.json``, or what stands for them.
        tensors, averaged: raw and averaged weights, keys as published; the average is None without one.
        step: optimizer steps, 0 when it does not say.
    """

    source: str
    format: str
    file: Path
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    averaged: dict[str, Tensor] | None
    step: int

    @property
    def clip(self) -> tuple[float, float] | None:
        """The interval its training drew times from, when it kept one."""
        bounds = [self.tensors[name] for name in CLIP if name in self.tensors]
        return (float(bounds[0]), float(bounds[1])) if len(bounds) == 2 else None


def read_foreign(source: str) -> Foreign:
    """Read a directory in the published layout, a Lightning ``.ckpt`` file, or a model of the hub.

    Raises:
        InputError: there is no such thing, or it cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        found = read_lightning(path)
        settings = measured(found.tensors, source) | described(found.settings)
        return Foreign(source, "lightning", path, settings, found.tensors, found.averaged, found.step)
    if path.is_dir() and not is_upstream(path):
        raise InputError(f"{path} is no checkpoint: it needs config.json and model.safetensors. Or name a .ckpt file.")
    folder = path if path.is_dir() else download(source)
    raw, tensors = read_upstream(folder)
    return Foreign(source, "huggingface", folder / WEIGHTS, raw, tensors, None, 0)


def download(name: str) -> Path:
    """The local copy of a model of the hub.

    Raises:
        InputError: no such model, or it has to be downloaded and cannot be.
    """
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or not all(name.split("/")):
        raise InputError(f"There is no file or directory {name}. Give one, or a model of the hub as org/name.")
    import huggingface_hub

    from bd3cli.data.hub_libraries import brief, hub_access

    with hub_access() as online:
        try:
            return Path(
                huggingface_hub.snapshot_download(
                    name, allow_patterns=["config.json", "model.safetensors"], local_files_only=not online
                )
            )
        except Exception as error:
            cause = brief(error) if online else "it is not in the hub's cache, and the hub cannot be reached"
            raise InputError(
                f"There is no directory {name}, and the model {name} of the hub could not be loaded: {cause}. Check "
                "the name, or download its config.json and model.safetensors into a directory and name that."
            ) from error


def import_checkpoint(
    source: str,
    out: Path,
    *,
    tokenizer: str | None = None,
    told: Mapping[str, Any] | None = None,
    options: Mapping[str, tuple[Any, str]] | None = None,
    overrides: Sequence[str] = (),
    argv: Sequence[str] = (),
) -> tuple[RunDirectory, list[str]]:
    """Make the run directory `out` of a checkpoint, and say what was assumed.

    Args:
        source: see `read_foreign`.
        tokenizer: its tokenizer; None for the usual one of its vocabulary size.
        told: ``model_type``, ``model_length``, ``block_size`` where the checkpoint does not say.
        options, overrides: for the recipe, as `bd3cli.recipes.resolve.resolve` takes them.

    Raises:
        InputError: it cannot be read, or does not fit its own description.
    """
    run = RunDirectory(out)
    run.refuse_unfit()
    foreign = read_foreign(source)
    foreign = replace(foreign, settings=foreign.settings | {k: v for k, v in (told or {}).items() if v is not None})
    missing = [key for key in DROP[:2] if key not in foreign.settings]
    family = foreign.settings.get("model_type")
    if family in NAMES and get_family(family).chooses_blocks and "block_size" not in foreign.settings:
        missing.append("block_size")
    if missing:
        option = {"model_type": "--family", "model_length": "--length", "block_size": "--block-size"}
        raise InputError(
            f"{source} does not say its {', '.join(missing)}. Add {' and '.join(option[key] for key in missing)}."
        )
    notices: list[str] = []
    raw = _float32(foreign.tensors, source, notices)
    averaged = None if foreign.averaged is None else _float32(foreign.averaged, source, notices)
    resolved = import_recipe(foreign, tokenizer, options or {}, overrides, notices)
    words = load_tokenizer(resolved.recipe.data.tokenizer)
    config = network_config(resolved.recipe, words)
    if config.vocab_size != foreign.settings["vocab_size"]:
        raise InputError(
            f"{source} has {foreign.settings['vocab_size']} token ids, the mask's included; the tokenizer "
            f"{words.name!r} has {config.vocab_size}. Name the one it was trained with, or "
            f"--tokenizer ids:{foreign.settings['vocab_size'] - 1}."
        )
    expected = expected_tensors(config)
    for tensors in (raw, *([] if averaged is None else [averaged])):
        require_same(expected, network_tensors(tensors), source)
    imported: Imported = {
        "source": str(Path(source).absolute()) if Path(source).exists() else source,
        "format": foreign.format,
        "sha256": file_sha256(foreign.file),
        "weights_sha256": weights_sha256(network_tensors(averaged or raw)),
        "config": foreign.settings,
        "clip": None if foreign.clip is None else list(foreign.clip),
    }
    record = replace(
        new_record(resolved, argv),
        status="imported",
        step=foreign.step,
        parameters=count_parameters(network_tensors(raw)),
        tokenizer={"name": words.name, "fingerprint": words.fingerprint},
        imported=imported,
    )
    run.create(resolved, record)
    CheckpointStore(run.checkpoints).save(
        foreign.step,
        network_tensors(raw),
        None if averaged is None else network_tensors(averaged),
        None,
        {"validation": None},
    )
    return run, notices


def import_recipe(
    foreign: Foreign,
    tokenizer: str | None,
    options: Mapping[str, tuple[Any, str]],
    overrides: Sequence[str],
    notices: list[str],
) -> Resolved:
    """The recipe of an imported run: what the checkpoint says over the paper's data for its tokenizer."""
    config = upstream_config(foreign.settings, foreign.source)
    chosen = tokenizer or TOKENIZERS.get(config.vocab_size)
    if chosen is None:
        chosen = f"ids:{config.vocab_size - 1}"
        notices.append(
            f"no tokenizer of {config.vocab_size} ids is known: text is token ids in decimal ({chosen}). "
            "Name the real one with --tokenizer to read and write text."
        )
    elif tokenizer is None:
        notices.append(f"{config.vocab_size} token ids: assuming the tokenizer {chosen}")
    values: dict[str, Any] = {
        "name": Path(foreign.source).stem or "imported",
        "description": f"imported from {foreign.source}",
        "data.tokenizer": chosen,
        "model.length": config.length,
        "model.hidden_size": config.hidden_size,
        "model.blocks": config.blocks,
        "model.heads": config.heads,
        "model.cond_dim": config.cond_dim,
        "model.dropout": config.dropout,
        "objective.family": config.family,
        "objective.block_size": config.block_size,
    }
    if config.time_conditioning and not config.traits.needs_time:
        values["model.time_conditioning"] = True
    if config.traits.masks:
        values["objective.masking"] = "bernoulli"
        if foreign.clip is not None and foreign.clip != UNCLIPPED:
            values["objective.clip"] = foreign.clip
    given = {key: (value, f"from {foreign.source}") for key, value in values.items()}
    return resolve(RECIPES.get(chosen, "tiny"), {**given, **options}, overrides)


def _float32(tensors: Mapping[str, Tensor], source: str, notices: list[str]) -> dict[str, Tensor]:
    """The tensors in float32, which every other floating type is widened to; nothing else is a weight.

    Raises:
        InputError: a tensor of whole numbers, or one with values that are not finite.
    """
    whole = [f"{name} ({value.dtype})" for name, value in tensors.items() if not value.is_floating_point()]
    if whole:
        raise InputError(f"{source} holds tensors that are no weights: {', '.join(whole[:5])}.")
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise InputError(f"{source} holds values that are not finite, in {', '.join(bad[:5])}.")
    other = sorted({str(value.dtype) for value in tensors.values()} - {"torch.float32"})
    if other and not any("float32" in text for text in notices):
        notices.append(f"weights of {', '.join(other)} are kept as torch.float32")
    return {name: value.float() for name, value in tensors.items()}
