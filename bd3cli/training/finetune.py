"""Start a run from another one's weights: which recipe it has, which weights, and the record of its descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from bd3cli.data import load_tokenizer
from bd3cli.errors import InputError
from bd3cli.maskings import get_masking
from bd3cli.model import TransformerConfig
from bd3cli.model.config import network_config
from bd3cli.model.convert import starting_weights
from bd3cli.model.formats.upstream import is_upstream
from bd3cli.model.state import require_fit, weights_sha256
from bd3cli.plugins import require_used
from bd3cli.recipes.resolve import Resolved, known_keys, resolve
from bd3cli.recipes.settings import Recipe, read_by
from bd3cli.runs import read_recipe
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RECORD, RunDirectory
from bd3cli.runs.records import OptimizerState, Parent, RunRecord
from bd3cli.training.distributed import spread_optimizer_state, spread_weights
from bd3cli.training.trainer import Trainer

Weights = Literal["averaged", "raw"]
READ_BY_SCHEDULES = tuple(f"objective.{name}" for name in read_by("time", "search"))


@dataclass(frozen=True)
class Start:
    """The weights a run starts from.

    Attributes:
        config: of the network they are from.
        tensors: its weights.
        optimizer: its optimizer's state, when that is kept.
        tokenizer: fingerprint of the tokenizer it was trained with.
        record: what the new run records of its descent.
    """

    config: TransformerConfig
    tensors: dict[str, Tensor]
    optimizer: OptimizerState | None
    tokenizer: str
    record: Parent

    def apply(self, trainer: Trainer) -> None:
        """Put the weights, and the optimizer's state if it is kept, into a fresh trainer.

        Raises:
            InputError: another vocabulary or another size of network, or a state that does not fit.
        """
        source = f"{self.record['run']} ({self.record['checkpoint']})"
        if trainer.tokenizer.fingerprint != self.tokenizer:
            raise InputError(
                f"The tokenizer {trainer.tokenizer.name!r} is not the one {source} was trained with (fingerprint "
                f"{trainer.tokenizer.fingerprint[:12]}, recorded {self.tokenizer[:12]}): its token ids would mean "
                "other tokens. Leave data.tokenizer as it is, or train from scratch."
            )
        tensors = starting_weights(self.tensors, self.config, trainer.unsharded(trainer.model))
        require_fit(trainer.model, tensors, source)
        spread_weights(trainer.group, trainer.model, tensors)
        if self.optimizer is not None:
            keep_optimizer(trainer, self.optimizer, self.config, source)


def keep_optimizer(trainer: Trainer, state: OptimizerState, config: TransformerConfig, source: str) -> None:
    """Take over the moments of AdamW; the learning rate and its warmup are the new recipe's.

    Raises:
        InputError: the networks do not have the same parameters.
    """
    if config.traits.modulated != trainer.model.config.traits.modulated:
        raise InputError(
            f"--keep-optimizer: {source} is of family {config.family!r}, which lacks parameters that "
            f"{trainer.model.config.family!r} has. Leave it out: the optimizer then starts afresh."
        )
    own = trainer.optimizer.state_dict()
    kept = {"state": state["state"], "param_groups": own["param_groups"]}
    spread_optimizer_state(trainer.group, trainer.model, trainer.optimizer, kept)


def finetune_recipe(
    run: Path,
    recipe: str | None,
    options: Mapping[str, tuple[Any, str]],
    overrides: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """The recipe of `run`, with `recipe`, the environment and the command line on top.

    What nobody asks to change stays as it was in `run`, but for the seed, which is one more: otherwise the
    new run would see the sequences and the masks of the old one again, in the same order. And the horizon, which
    belonged to the old run's steps, is the new one's own.

    Raises:
        InputError: `run` is no run, values that do not work together, or a plugin that came with it is not there.
    """
    record, parent = read_parent(run), read_recipe(run)
    sources = dict.fromkeys(known_keys(), f"from {run}") | {"seed": f"from {run}, plus one"}
    sources["train.horizon"] = "default"
    base = Resolved(replace(parent, seed=parent.seed + 1, train=replace(parent.train, horizon=None)), sources)
    resolved = drop_unread(resolve(recipe, options, overrides, environment, base), base)
    require_inherited(record.used, resolved.recipe, parent, run)
    return resolved


def require_inherited(uses: Mapping[str, Mapping[str, str]], recipe: Recipe, parent: Recipe, run: Path) -> None:
    """Refuse a schedule, weight, masking, tokenizer or data set that came with the run and whose plugin is not there.

    Raises:
        InputError: naming the package to install and the option that would do without.
    """
    ours, theirs = _named(recipe), _named(parent)
    for kind, used in uses.items():
        if kind in ours and ours[kind] == theirs[kind]:
            try:
                require_used({kind: used}, str(run))
            except InputError as error:
                option = "data" if kind == "dataset" else kind
                raise InputError(f"{error} (or choose another with --{option})") from error


def _named(recipe: Recipe) -> dict[str, str]:
    """Kind of plugin -> what a recipe names of it."""
    o = recipe.objective
    drawn = {} if not o.traits.masks else {"schedule": o.schedule, "weight": o.weight, "masking": o.masking}
    return {**drawn, "tokenizer": recipe.data.tokenizer, "dataset": recipe.data.name}


def drop_unread(resolved: Resolved, base: Resolved) -> Resolved:
    """Asking for a masking that draws no time drops the schedule and the clip that only came with the run."""
    key, objective = "objective.masking", resolved.recipe.objective
    if resolved.sources[key] == base.sources[key] or not objective.traits.masks:
        return resolved
    if get_masking(objective.masking).uses_schedule:
        return resolved
    kept = [k for k in READ_BY_SCHEDULES if resolved.sources[k] == base.sources[k]]
    defaults = {k.removeprefix("objective."): known_keys()[k].default for k in kept}
    sources = resolved.sources | dict.fromkeys(kept, f"default, because of {key}")
    return Resolved(replace(resolved.recipe, objective=replace(objective, **defaults)), sources)


def load_start(
    run: Path, *, checkpoint: str = "best", weights: Weights | None = None, optimizer: bool = False
) -> Start:
    """Read what a new run starts from.

    Args:
        run: a run directory, trained or imported.
        checkpoint: ``best``, ``last`` or a name.
        weights: the averaged or the raw ones; None for averaged, or raw with the optimizer, whose state
            belongs to them.
        optimizer: whether to read the optimizer's state too.

    Raises:
        InputError: no such run, checkpoint or average, or the checkpoint is damaged.
    """
    record, recipe = read_parent(run), read_recipe(run)
    found = CheckpointStore(run / "checkpoints").load(checkpoint)
    chosen: Weights = weights or ("raw" if optimizer else "averaged")
    if weights == "averaged" and not found.averaged:
        raise InputError(f"{found.path} holds no averaged weights. Use --weights raw.")
    state = found.optimizer() if optimizer else None
    tensors = found.weights(average=chosen == "averaged")
    require_used(record.used, str(run), ("tokenizer",))
    tokenizer = load_tokenizer(recipe.data.tokenizer)
    return Start(
        config=network_config(recipe, tokenizer),
        tensors=tensors,
        optimizer=None if state is None else state["optimizer"],
        tokenizer=str(record.fingerprint),
        record={
            "run": str(run.absolute()),
            "checkpoint": found.path.name,
            "step": found.step,
            "weights": chosen if found.averaged else "raw",
            "weights_sha256": weights_sha256(tensors),
            "optimizer": "kept" if optimizer else "fresh",
            "family": recipe.objective.family,
            "block_size": recipe.block_size,
            "recipe": record.recipe,
            "imported": record.imported,
            "parent": record.parent,
        },
    )


def read_parent(run: Path) -> RunRecord:
    """The record of the run to start from."""
    if is_upstream(run) and not (run / RECORD).exists():
        raise InputError(
            f"{run} is a bare checkpoint: it names no tokenizer and no data. "
            f"Make a run of it first: bd3cli checkpoint import {run} --out RUN."
        )
    return RunDirectory(run).read_record()
