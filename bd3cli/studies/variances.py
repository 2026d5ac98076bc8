"""Variances of a trained run under several ways to draw masks: what `eval --variance-of` shows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

import torch

from bd3cli.data import PackedSplit
from bd3cli.diffusion.batch import token_nll
from bd3cli.diffusion.objective import Objective
from bd3cli.diffusion.scheme import Scheme
from bd3cli.errors import InputError
from bd3cli.evaluation.variance import Batches, Spread, gradient_variance, nelbo_variance
from bd3cli.faults import blaming_plugins, describe
from bd3cli.maskings import Learner, Masking, MaskNoise
from bd3cli.model import Transformer, evaluating
from bd3cli.plugins import require_used
from bd3cli.recipes.settings import ObjectiveConfig, Recipe
from bd3cli.rng import permutation
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.records import SavedProgress
from bd3cli.training.learned import LearnedMasking
from bd3cli.training.trainer import token_counts

if TYPE_CHECKING:
    from bd3cli.runs import Run

LEARNING_BATCHES = 200  # of the training split, for a masking that learns and has not yet


class OwnVariance(TypedDict, total=False):
    """Var. NELBO under a run's own training masks; None with its reason, or with none for ``ar``."""

    var_nelbo: float | None
    var_nelbo_ci95: list[float] | None
    var_nelbo_notes: list[str]
    var_nelbo_reason: str


class GradientVariance(TypedDict, total=False):
    """Gradient variance, where it was asked for."""

    var_gradient: float | None
    var_gradient_ci95: list[float] | None
    var_gradient_notes: list[str]
    var_gradient_relative: float | None


class _Scheme(TypedDict):
    name: str
    masking: str
    schedule: str | None
    clip: list[float] | None
    var_nelbo: float
    var_nelbo_ci95: list[float] | None
    var_nelbo_notes: list[str]
    var_nelbo_relative: float | None
    batches: int
    batch_size: int
    learned: str | None


class VarianceRow(_Scheme, GradientVariance):
    """Variances under one way to draw masks; `learned` says how its masking was, if it is one that learns."""


def own_scheme(run: Run, recipe: Recipe) -> Scheme | None:
    """How a run's training drew its masks, lastly where it searched; None for ``ar``, which draws none."""
    o = recipe.objective
    if not o.traits.masks:
        return None
    clip = o.clip
    if o.clip_search == "search":
        history = _progress(run).get("clip_search")
        clip = (history[-1]["clip"][0], history[-1]["clip"][1]) if history else clip
    return Scheme("training", o.masking, o.schedule, clip, o.resample)


def own_variance(
    run: Run, recipe: Recipe, split: PackedSplit, *, sequences: list[int], count: int, seed: int
) -> OwnVariance:
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
    value = row["var_nelbo"]
    if not math.isfinite(value):
        reason = f"It is {value} under the schedule {scheme.schedule!r} with the masking {scheme.masking!r}."
        return {"var_nelbo": None, "var_nelbo_reason": reason}
    return {"var_nelbo": value, "var_nelbo_ci95": row["var_nelbo_ci95"], "var_nelbo_notes": row["var_nelbo_notes"]}


def variance_row(run: Run, recipe: Recipe, scheme: Scheme, batches: Batches, *, gradient: bool = True) -> VarianceRow:
    """Var. NELBO and gradient variance of `run` under `scheme`, as plain values for JSON."""
    objective, learned = run_objective(run, recipe, scheme)
    reads_schedule = objective.masking is not None and objective.masking.uses_schedule
    nelbo = nelbo_variance(run.model, objective, batches)
    slope: GradientVariance = {}
    if gradient:
        found = gradient_variance(run.model, objective, batches)
        slope = {
            "var_gradient": None if found is None else found.value,
            "var_gradient_ci95": _interval(found),
            "var_gradient_notes": _notes(found),
            "var_gradient_relative": None if found is None else found.relative,
        }
    return {
        "name": scheme.name,
        "masking": scheme.masking,
        "schedule": scheme.schedule if reads_schedule else None,
        "clip": None if scheme.clip is None else list(scheme.clip),
        "var_nelbo": nelbo.value,
        "var_nelbo_ci95": _interval(nelbo),
        "var_nelbo_notes": _notes(nelbo),
        "var_nelbo_relative": nelbo.relative,
        **slope,
        "batches": len(batches.indices),
        "batch_size": len(batches.indices[0]),
        "learned": learned,
    }


def run_objective(run: Run, recipe: Recipe, scheme: Scheme) -> tuple[Objective, str | None]:
    """The objective of `scheme` for a run's network, without loss weight; and how its masking was learned, if it was.

    Raises:
        InputError: an ``ar`` run, or a scheme that does not exist or cannot be trained.
    """
    if not run.config.traits.masks:
        family = run.config.family
        raise InputError(f"{run.path} is an {family!r} run: it masks nothing, so its loss has no such variance.")
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
    if c.traits.recut is None or c.time_conditioning:
        raise InputError(f"{run.path} is of family {c.family}, which cannot have block size {block_size}.")
    if c.length % block_size:
        raise InputError(f"Block size {block_size} does not divide the run's length {c.length}.")
    model = Transformer(replace(c, family=c.traits.recut, block_size=block_size), run.model.attention)
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


def _uses(run: Run) -> dict[str, dict[str, str]]:
    """The plugins that drew the run's training masks."""
    return {kind: used for kind, used in run.record.used.items() if kind in ("schedule", "masking")}


def _progress(run: Run) -> SavedProgress:
    """What the checkpoint in use says about masks: what was learned, and searched."""
    return CheckpointStore(run.path / "checkpoints").load(run.checkpoint).progress()


def take_up(learner: Learner, progress: SavedProgress) -> None:
    """Put into a learner what it had learned by a checkpoint.

    Raises:
        InputError: it is not its own, as after a change of the plugin.
    """
    known = progress.get("masking")
    if known is None:
        raise InputError("What the masking learned in training is not in the checkpoint.")
    try:
        with blaming_plugins():
            learner.load_state_dict(known["learner"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"What the masking learned in training cannot be restored: {describe(error)}.") from error


def _interval(spread: Spread | None) -> list[float] | None:
    return None if spread is None or spread.ci95 is None else list(spread.ci95)


def _notes(spread: Spread | None) -> list[str]:
    return [] if spread is None or spread.mean is None else list(spread.mean.notes)


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
) -> list[VarianceRow]:
    """`variance_row` of every scheme, on the same batches of the recipe's batch size."""
    batches = Batches.choose(split, sequences, recipe.train.batch_size, count, seed)
    return [variance_row(run, recipe, scheme, batches, gradient=gradient) for scheme in schemes]
