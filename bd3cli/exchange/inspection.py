"""Describe and verify checkpoints, and export them in the published layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast

import torch
from torch import Tensor

from bd3cli.data import load_tokenizer
from bd3cli.errors import InputError
from bd3cli.evaluation.likelihood import LikelihoodSummary
from bd3cli.model import TransformerConfig
from bd3cli.model.config import network_config
from bd3cli.model.formats.upstream import is_upstream, network_tensors, read_upstream, upstream_config, write_upstream
from bd3cli.model.state import count_parameters, mismatches, weights_sha256
from bd3cli.model.transformer import expected_tensors
from bd3cli.plugins import require_used
from bd3cli.recipes.settings import Recipe
from bd3cli.runs import Run, read_recipe
from bd3cli.runs.checkpoint import Checkpoint
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RECORD, RunDirectory
from bd3cli.runs.records import Ancestor, Imported, RunRecord

Weights = Literal["averaged", "raw"]
TOLERANCE = 1e-4  # nats a token, of a validation repeated on other hardware


@dataclass(frozen=True)
class Opened:
    """A checkpoint read from disk: of a run, or bare in the published layout.

    Attributes:
        config: of its network.
        tensors: "raw", and "averaged" where there are any.
        record, recipe, checkpoint: empty or None when it is bare.
    """

    path: Path
    config: TransformerConfig
    tensors: dict[str, dict[str, Tensor]]
    record: RunRecord
    recipe: Recipe | None
    checkpoint: Checkpoint | None

    @property
    def evaluated(self) -> dict[str, Tensor]:
        """The weights evaluation and sampling use."""
        return self.tensors.get("averaged", self.tensors["raw"])


def open_checkpoint(path: Path, which: str = "best") -> Opened:
    """Read the weights of `which` checkpoint: best, last or a name.

    Raises:
        InputError: no such run or checkpoint, or it is damaged.
    """
    if is_upstream(path) and not (path / RECORD).exists():
        raw, tensors = read_upstream(path)
        return Opened(path, upstream_config(raw, str(path)), {"raw": network_tensors(tensors)}, RunRecord(), None, None)
    record, recipe = RunDirectory(path).read_record(), read_recipe(path)
    found = CheckpointStore(path / "checkpoints").load(which)
    weights = {"raw": found.weights(average=False)}
    if found.averaged:
        weights["averaged"] = found.weights(average=True)
    require_used(record.used, str(path), ("tokenizer",))
    return Opened(path, network_config(recipe, load_tokenizer(recipe.data.tokenizer)), weights, record, recipe, found)


class Description(TypedDict):
    """What a checkpoint is."""

    run: str
    checkpoint: str
    step: int | None
    status: str | None
    family: str
    block_size: int
    length: int
    vocab_size: int
    hidden_size: int
    blocks: int
    heads: int
    cond_dim: int
    time_conditioning: bool
    parameters: int
    weights: str
    weights_sha256: str
    raw_weights_sha256: str
    tokenizer: str | None
    validation: LikelihoodSummary | None
    imported: Imported | None
    chain: list[Ancestor]


class Exported(TypedDict):
    """What was written."""

    out: str
    weights_sha256: str
    parameters: int


def describe(opened: Opened) -> Description:
    """The fields of ``bd3cli checkpoint show --json``. `weights_sha256` is of the weights evaluation uses."""
    c, found = opened.config, opened.checkpoint
    return {
        "run": str(opened.path),
        "checkpoint": found.path.name if found else "model.safetensors",
        "step": found.step if found else None,
        "status": opened.record.status,
        "family": c.family,
        "block_size": c.block_size,
        "length": c.length,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "blocks": c.blocks,
        "heads": c.heads,
        "cond_dim": c.cond_dim,
        "time_conditioning": c.time_conditioning,
        "parameters": count_parameters(opened.evaluated),
        "weights": "averaged" if "averaged" in opened.tensors else "raw",
        "weights_sha256": weights_sha256(opened.evaluated),
        "raw_weights_sha256": weights_sha256(opened.tensors["raw"]),
        "tokenizer": opened.record.tokenizer.get("name") if opened.record.tokenizer else None,
        "validation": found.state.validation if found else None,
        "imported": opened.record.imported,
        "chain": list(chain(opened.record)),
    }


def chain(record: RunRecord) -> Iterator[Ancestor]:
    """The runs a run descends from, nearest first."""
    parent = record.parent
    while parent is not None:
        yield cast("Ancestor", {key: value for key, value in parent.items() if key not in ("parent", "recipe")})
        parent = parent["parent"]


@dataclass(frozen=True)
class Check:
    """One thing that was verified."""

    check: str
    ok: bool
    detail: str


def verify(path: Path, which: str = "best", perplexity: bool = False) -> list[Check]:
    """Whether a checkpoint is what it says it is.

    Args:
        perplexity: repeat the validation recorded with the checkpoint and compare.

    Raises:
        InputError: there is nothing to verify: no such run or checkpoint.
    """
    if not is_upstream(path):
        RunDirectory(path).read_record()
    try:
        opened = open_checkpoint(path, which)
        if opened.checkpoint:
            opened.checkpoint.verify()
    except InputError as error:
        return [Check("files", False, str(error))]
    sums = opened.checkpoint.state.sha256 if opened.checkpoint else {}
    checks = [Check("files", True, f"{len(sums)} files match their SHA-256" if sums else "readable; no checksums kept")]
    expected = expected_tensors(opened.config)
    for name, tensors in opened.tensors.items():
        checks += [
            *_structure(name, expected, tensors),
            _outcome(f"{name} types", [n for n, t in tensors.items() if t.dtype != expected_dtype(n, expected)],
                     f"{len(tensors)} tensors of float32"),
            _outcome(f"{name} values", [n for n, t in tensors.items() if not torch.isfinite(t).all()], "all finite"),
        ]  # fmt: skip
    counted, recorded = count_parameters(opened.evaluated), opened.record.parameters
    same = recorded in (None, counted)
    checks.append(Check("parameters", same, f"{counted:,}" + ("" if same else f"; the record says {recorded:,}")))
    if perplexity:
        checks.append(_validation(path, which, opened))
    return checks


def expected_dtype(name: str, expected: dict[str, Tensor]) -> torch.dtype:
    return expected[name].dtype if name in expected else torch.float32


def _structure(label: str, expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> list[Check]:
    found = mismatches(expected, tensors)
    keys = [f"{kind}: {', '.join(found[kind])}" for kind in ("missing", "unexpected") if found[kind]]
    return [
        _outcome(f"{label} names", keys, f"{len(tensors)} tensors, none missing, none unexpected"),
        _outcome(f"{label} shapes", found["wrong shape"], "as the configuration says"),
    ]


def _outcome(check: str, problems: list[str], good: str) -> Check:
    return Check(check, not problems, "; ".join(problems[:8]) if problems else good)


def _validation(path: Path, which: str, opened: Opened) -> Check:
    recorded = opened.checkpoint.state.validation if opened.checkpoint else None
    if not recorded or opened.recipe is None:
        raise InputError(f"{path} records no validation of this checkpoint, so there is no perplexity to expect.")
    run = Run.load(path, checkpoint=which)
    result = run.evaluate(run.split("validation"), sequences=opened.recipe.train.validate_sequences)
    difference = abs(result.nats_per_token - recorded["nats_per_token"])
    detail = f"{result.summary()['ppl']:.4f}, recorded {recorded['ppl']:.4f} ({difference:.1e} nats a token apart)"
    return Check("perplexity", difference <= TOLERANCE, detail)


def export(path: Path, out: Path, which: str = "best", weights: Weights = "averaged") -> Exported:
    """Write a run's network in the published layout; an imported one keeps the settings it came with.

    Raises:
        InputError: nothing to export, or `out` cannot be written.
    """
    opened = open_checkpoint(path, which)
    imported = opened.record.imported
    clip = (imported and imported["clip"]) or (opened.recipe.objective.clip if opened.recipe else None)
    tensors = opened.evaluated if weights == "averaged" else opened.tensors["raw"]
    settings = imported["config"] if imported and imported["format"] == "huggingface" else None
    write_upstream(out, opened.config, tensors, (clip[0], clip[1]) if clip else None, settings)
    return {"out": str(out), "weights_sha256": weights_sha256(tensors), "parameters": count_parameters(tensors)}
