"""Variances of a trained run under several ways to draw masks: what `eval --variance-of` shows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from bd3cli.data import PackedSplit
from bd3cli.diffusion.batch import token_nll
from bd3cli.diffusion.objective import Objective
from bd3cli.diffusion.scheme import Scheme
from bd3cli.errors import InputError
from bd3cli.evaluation.intervals import Mean
from bd3cli.evaluation.variance import Batches, Spread, gradient_variance, nelbo_variance
from bd3cli.faults import blaming_plugins, describe
from bd3cli.maskings import Learner, Masking, MaskNoise
from bd3cli.model import Transformer, evaluating
from bd3cli.plugins import require_used
from bd3cli.recipes.settings import ObjectiveConfig, Recipe
from bd3cli.rng import permutation
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.training.learned import LearnedMasking
from bd3cli.training.trainer import token_counts

if TYPE_CHECKING:
    from bd3cli.runs import Run

LEARNING_BATCHES = 200  # of the training split, for a masking that learns and has not yet


def own_scheme(run: Run, recipe: Recipe) -> Scheme | None:
    """How a run's training drew its masks, lastly where it searched; None for ``ar``, which draws none."""
    o = recipe.objective
    if o.family == "ar":
        return None
    clip = o.clip
    if o.clip_search == "search":
        history = _progress(run).get("clip_search")
        clip = tuple(history[-1]["clip"]) if history else clip
    return Scheme("training", o.masking, o.schedule, clip, o.resample)


def own_variance(
    run: Run, recipe: Recipe, split: PackedSplit, *, sequences: list[int], count: int, seed: int
) -> dict[str, Any]:
    """Var. NELBO under the run's own training masks, or why it cannot be had; nobody need have asked for it.

    Its plugins may be missing or broken, or the training text gone; everything else about the run is known without.
    """
    try:
        require_used(_uses(run), str(run.path))
        scheme = own_scheme(run, recipe)
        if scheme is None:
            return {"var_nelbo": None}
        with blaming_plugins():
            (row,) = measure_variances(
                run, recipe, split, [scheme], sequences=sequences, count=count, seed=seed, gradient=False
            )
    except InputError as error:
        return {"var_nelbo": None, "var_nelbo_reason": str(error)}
    if not math.isfinite(row["var_nelbo"]):
        reason = f"It is {row['var_nelbo']} under the schedule {scheme.schedule!r} with the masking {scheme.masking!r}."
        return {"var_nelbo": None, "var_nelbo_reason": reason}
    return {key: row[key] for key in ("var_nelbo", "var_nelbo_ci95", "var_nelbo_notes")}


def variance_row(
    run: Run, recipe: Recipe, scheme: Scheme, batches: Batches, *, gradient: bool = True
) -> dict[str, Any]:
    """Var. NELBO and gradient variance of `run` under `scheme`, as plain values for JSON."""
    objective, learned = run_objective(run, recipe, scheme)
    reads_schedule = objective.masking is not None and objective.masking.uses_schedule
    nelbo = nelbo_variance(run.model, objective, batches)
    slope = gradient_variance(run.model, objective, batches) if gradient else None
    return {
        "name": scheme.name,
        "masking": scheme.masking,
        "schedule": scheme.schedule if reads_schedule else None,
        "clip": None if scheme.clip is None else list(scheme.clip),
        **_fields("nelbo", nelbo),
        **(_fields("gradient", slope) if gradient else {}),
        "batches": len(batches.indices),
        "batch_size": len(batches.indices[0]),
        "learned": learned,
    }


def run_objective(run: Run, recipe: Recipe, scheme: Scheme) -> tuple[Objective, str | None]:
    """The objective of `scheme` for a run's network, without loss weight; and how its masking was learned, if it was.

    Raises:
        InputError: an ``ar`` run, or a scheme that does not exist or cannot be trained.
    """
    if run.config.family == "ar":
        raise InputError(f"{run.path} is an 'ar' run: it masks nothing, so its loss has no such variance.")
    c = run.config
    assert c.mask_id is not None
    config = replace(scheme.applied(recipe.objective), weight=ObjectiveConfig().weight, normalise_weight=False)
    objective = Objective.build(config, c.mask_id, c.block_size, None, c.time_conditioning)
    assert objective.masking is not None
    if objective.masking.uses_token_counts:
        objective = replace(objective, token_counts=token_counts(run.split("train"), c.vocab_size))
    masking, learned = _learned(run, recipe, scheme, objective)
    return replace(objective, masking=masking), learned


def clip_objective(run: Run, schedule: str | None) -> Objective:
    """The paper's masking for a run's network under `schedule`, or the run's own; unclipped.

    Raises:
        InputError: as `run_objective`, a run without a recipe, or one whose schedule's plugin is missing.
    """
    recipe = run.recipe
    if recipe is None:
        raise InputError(f"{run.path} is a bare checkpoint: it names no data to search on. Give a run directory.")
    if schedule is None:
        require_used({kind: used for kind, used in _uses(run).items() if kind == "schedule"}, str(run.path))
    return run_objective(run, recipe, Scheme("search", schedule=schedule or recipe.objective.schedule))[0]


def with_block_size(run: Run, block_size: int | None) -> Run:
    """A run whose network is cut into other blocks, before it is finetuned to them; itself for None.

    Raises:
        InputError: the network has no blocks to cut, or the length is no multiple.
    """
    c = run.config
    if block_size is None or block_size == c.block_size:
        return run
    if c.family not in ("bd3lm", "mdlm") or c.time_conditioning:
        raise InputError(f"{run.path} is of family {c.family}, which cannot have block size {block_size}.")
    if c.length % block_size:
        raise InputError(f"Block size {block_size} does not divide the run's length {c.length}.")
    model = Transformer(replace(c, family="bd3lm", block_size=block_size), run.model.attention)
    model.load_state_dict(run.model.state_dict())
    return replace(run, model=model.to(next(run.model.parameters()).device).eval())


def _learned(run: Run, recipe: Recipe, scheme: Scheme, objective: Objective) -> tuple[Masking, str | None]:
    """The masking to measure: as the run learned it, learned here, or as it is."""
    masking = objective.masking
    assert masking is not None
    learner = masking.learner(objective.block_size)
    if learner is None:
        return masking, None
    if scheme.masking == recipe.objective.masking:
        take_up(learner, _progress(run))
        return learner.masking(), f"in training, up to step {run.step}"
    learned = LearnedMasking(masking, learner, objective.block_size)
    split, size = run.split("train"), recipe.train.batch_size
    order = permutation(len(split), "learning").tolist()
    count = min(LEARNING_BATCHES, max(len(order) // size, 1))
    device = next(run.model.parameters()).device
    with evaluating(run.model), torch.inference_mode():
        for step in range(count):
            chosen = order[step * size : (step + 1) * size]
            tokens, valid = torch.from_numpy(split.tokens(chosen)), torch.from_numpy(split.valid(chosen))
            noise = MaskNoise.draw(*tokens.shape, objective.block_size, "learning", step)
            batch = replace(objective, masking=learned.masking(step)).batch(tokens, valid, noise, 1.0)
            learned.observe(step, [batch], [token_nll(run.model, batch.to(device))])
    learned.summary()  # the last step's losses too
    return learner.masking(), f"here, from {count} batches of the training split"


def _uses(run: Run) -> dict[str, Any]:
    """The plugins that drew the run's training masks."""
    return {kind: used for kind, used in run.record.get("uses", {}).items() if kind in ("schedule", "masking")}


def _progress(run: Run) -> dict[str, Any]:
    """What the checkpoint in use says about masks: what was learned, and searched."""
    return CheckpointStore(run.path / "checkpoints").load(run.checkpoint).progress()


def take_up(learner: Learner, progress: dict[str, Any]) -> None:
    """Put into a learner what it had learned by a checkpoint.

    Raises:
        InputError: it is not its own, as after a change of the plugin.
    """
    try:
        with blaming_plugins():
            learner.load_state_dict(progress["masking"]["learner"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"What the masking learned in training cannot be restored: {describe(error)}.") from error


def _fields(name: str, spread: Spread | None) -> dict[str, Any]:
    mean: Mean | None = None if spread is None else spread.mean
    return {
        f"var_{name}": None if spread is None else spread.value,
        f"var_{name}_ci95": None if mean is None else list(mean.positive_ci95),
        f"var_{name}_notes": [] if mean is None else list(mean.notes),
        f"var_{name}_relative": None if spread is None else spread.relative,
    }


def measure_variances(
    run: Run,
    recipe: Recipe,
    split: PackedSplit,
    schemes: list[Scheme],
    *,
    sequences: list[int],
    count: int,
    seed: int,
    gradient: bool = True,
) -> list[dict[str, Any]]:
    """`variance_row` of every scheme, on the same batches of the recipe's batch size."""
    batches = Batches.choose(split, sequences, recipe.train.batch_size, count, seed)
    return [variance_row(run, recipe, scheme, batches, gradient=gradient) for scheme in schemes]
