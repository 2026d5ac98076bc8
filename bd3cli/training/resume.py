"""Which recipe a resumed run has: its own, but for settings that do not change what is being trained.

The number of steps may change, but what is measured by it may not: that stays with the horizon, the steps the run
began with. What a resumed run cannot make equal to one begun with its new recipe is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bd3cli.diffusion.objective import Objective
from bd3cli.errors import InputError
from bd3cli.plugins import require_used
from bd3cli.recipes.resolve import Resolved, known_keys, layered
from bd3cli.recipes.settings import Recipe
from bd3cli.runs import read_recipe
from bd3cli.runs.directory import RunDirectory
from bd3cli.runs.records import RunRecord

if TYPE_CHECKING:
    from bd3cli.training.trainer import Trainer

STAGES = 64  # at which a schedule is looked at to see whether it moves
CHANGEABLE = frozenset(name for name, key in known_keys().items() if key.facts.resumable)


def resume_recipe(
    out: Path | None, recipe: str | None, options: Mapping[str, tuple[Any, str]], overrides: Sequence[str]
) -> Resolved:
    """The recipe recorded in `out`, with the given options on top.

    Raises:
        InputError: nothing to resume, or an option that would make it another run.
    """
    if out is None:
        raise InputError("--resume needs to know which run: add --out RUN.")
    if recipe is not None:
        raise InputError(f"--resume uses the recipe recorded in {out}; leave out {recipe!r}.")
    record = RunDirectory(out).read_record()
    if record.status == "imported":
        raise InputError(
            f"{out} was imported: it has no optimizer to go on with. Start from it: bd3cli finetune {out}."
        )
    require_used(record.used, str(out))
    recorded = read_recipe(out)
    fixed = with_horizon(recorded, recorded.horizon)  # whatever the steps become
    resolved = layered(fixed, dict(record.sources), options, overrides)
    before, after = Resolved(fixed, {}).values(), resolved.values()
    changed = [key for key in after if after[key] != before[key] and key not in changeable(fixed)]
    if changed:
        listed = ", ".join(f"{key} ({before[key]!r} -> {after[key]!r})" for key in changed)
        why = " The clip is searched for at every validation." if CHANGEABLE.intersection(changed) else ""
        raise InputError(
            f"A resumed run keeps its recipe; these would change it: {listed}.{why} Leave them out, or start a new run."
        )
    if recorded.train.horizon is not None:
        return resolved
    if resolved.recipe.train.steps == recorded.train.steps:
        return replace(resolved, recipe=with_horizon(resolved.recipe, None))
    return replace(resolved, sources=resolved.sources | {"train.horizon": "the steps the run began with"})


def changeable(recipe: Recipe) -> frozenset[str]:
    """Keys that may differ in a resumed run. A clip that is searched for depends on when that is done."""
    searching = recipe.objective.clip_search == "search"
    return CHANGEABLE - {"train.validate_every"} if searching else CHANGEABLE


def with_horizon(recipe: Recipe, horizon: int | None) -> Recipe:
    """`recipe` with another `train.horizon`."""
    return replace(recipe, train=replace(recipe.train, horizon=horizon))


def check_horizon_unchanged(record: RunRecord, trainer: Trainer) -> None:
    """Refuse a recipe that measures the run by other steps than it began with; `resume_recipe` makes none.

    Raises:
        InputError: with both numbers.
    """
    own = trainer.recipe.horizon
    known = own if record.horizon is None else record.horizon
    if own != known:
        raise InputError(
            f"The warmup and the schedule of this run are measured by {known} steps, those of the recipe by {own}. "
            f"Set train.horizon to {known}, or take the recipe from bd3cli.training.resume.resume_recipe."
        )


def consequences(record: RunRecord, trainer: Trainer) -> list[str]:
    """Why the run, resumed with other settings than `record` has, will not be one begun with them."""
    before, recipe = record.recipe, trainer.recipe
    found = []
    if before.get("train.steps") != recipe.train.steps:
        reasons = left_behind(recipe, trainer.objective)
        if reasons:
            found.append(f"not the same as {recipe.train.steps} steps from the start: {'; '.join(reasons)}.")
    key, share = "train.micro_batch_size", recipe.train.batch_size // trainer.group.size
    recorded = before.get(key)
    old, new = (
        min(micro, share) if isinstance(micro, int) else share for micro in (recorded, recipe.train.micro_batch_size)
    )
    if old != new and recipe.model.dropout:
        found.append(
            f"{key}: forward passes of {new} sequences draw other dropout masks than those of {old} did; "
            "nothing else changes but rounding."
        )
    return found


def left_behind(recipe: Recipe, objective: Objective) -> list[str]:
    """What is measured by a horizon that is not the number of steps, and comes out differently for it."""
    steps, horizon = recipe.train.steps, recipe.horizon
    reasons, afresh = [], with_horizon(recipe, None).warmup_steps
    if afresh != recipe.warmup_steps:
        reasons.append(
            f"its warmup of {recipe.warmup_steps} was measured by {horizon} steps, a tenth at most; "
            f"a run of {steps} would have warmed up for {afresh}"
        )
    if steps != horizon and moves(objective):
        end = "and is used from there on as it ended" if steps > horizon else "which is not reached"
        reasons.append(
            f"the schedule {recipe.objective.schedule} moves with the share of steps done, whose end stays at step "
            f"{horizon}, {end}"
        )
    return reasons


def moves(objective: Objective) -> bool:
    """Whether training draws from a schedule that depends on how far it has come."""
    schedule, masking = objective.schedule, objective.masking
    if schedule is None or masking is None or not masking.uses_schedule:
        return False
    return any(schedule.at_progress(i / STAGES) != schedule.at_progress(0.0) for i in range(1, STAGES + 1))
