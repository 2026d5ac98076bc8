"""The interval of times with the least Var. NELBO: the paper's search for clipped schedules (section 5.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from bd3cli.diffusion.objective import Objective
from bd3cli.evaluation.variance import AT_END, Batches, Spread, nelbo_variance
from bd3cli.model import Transformer
from bd3cli.recipes.clips import Interval


class TriedClip(TypedDict):
    """An interval that was tried, as plain values."""

    clip: list[float]
    var_nelbo: float
    var_nelbo_ci95: list[float] | None
    var_nelbo_relative: float | None


class ChosenClip(TypedDict):
    """What a search chose after `step` steps, for steps counted from 0 as of `from_step`, and what it tried."""

    step: int
    from_step: int
    clip: list[float]
    tried: list[TriedClip]


@dataclass(frozen=True)
class Tried:
    """One interval and how noisy the loss is under it."""

    clip: Interval
    spread: Spread

    def summary(self) -> TriedClip:
        """Plain values for records and JSON."""
        return {
            "clip": list(self.clip),
            "var_nelbo": self.spread.value,
            "var_nelbo_ci95": None if self.spread.ci95 is None else list(self.spread.ci95),
            "var_nelbo_relative": self.spread.relative,
        }


def try_clips(
    model: Transformer,
    objective: Objective,
    grid: list[Interval],
    batches: Batches,
    progress: float = AT_END,
    done: Callable[[int, int], None] | None = None,
) -> list[Tried]:
    """Var. NELBO of `objective` under every clip of `grid`.

    All use the same batches and the same randomness, so that their differences are known better than their values.
    A loss weight in `objective` counts; the search of a training run minimises what that run trains on.
    """
    tried = []
    for i, clip in enumerate(grid):
        tried.append(Tried(clip, nelbo_variance(model, objective.clipped(clip), batches, progress)))
        if done is not None:
            done(i + 1, len(grid))
    return tried


def least(tried: list[Tried]) -> Tried:
    """The interval with the least variance; the first one of several."""
    return min(tried, key=lambda t: t.spread.value)
