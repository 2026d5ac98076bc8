"""The clip of every step, where it is searched for while training: `objective.clip_search = "search"`.

At every validation the grid is tried on validation text, and the interval with the least Var. NELBO is drawn
from as of the second step after it: the data of the next one are prepared already. What was tried and chosen is
the search's whole state; with `fix` there is no search, and nothing that could change the clip.
"""

from __future__ import annotations

from bd3cli.data import PackedSplit
from bd3cli.diffusion.objective import Objective
from bd3cli.evaluation.clip_search import ChosenClip, Tried, least, try_clips
from bd3cli.evaluation.variance import Batches
from bd3cli.model import Transformer
from bd3cli.recipes.clips import Interval, clip_grid
from bd3cli.recipes.settings import Recipe
from bd3cli.training.distributed import Group

READY_AFTER = 1  # steps prepared ahead when a validation ends


class ClipSearch:
    """Chosen intervals, and the objective that belongs to each."""

    def __init__(self, objective: Objective, grid: list[Interval]) -> None:
        """`objective` has the clip to begin with, perhaps none.

        Raises:
            InputError: an interval of the grid cannot be trained.
        """
        self.grid, self._first = grid, objective
        self._objectives = {clip: objective.clipped(clip) for clip in grid}
        self.history: list[ChosenClip] = []

    @staticmethod
    def of(objective: Objective) -> ClipSearch | None:
        """None unless the recipe asks for a search."""
        config = objective.config
        if config.clip_search == "fix":
            return None
        return ClipSearch(objective, clip_grid(config.clip_widths, config.clip_step))

    def objective(self, step: int) -> Objective:
        """What step `step`, counted from 0, trains on; up to the one after the step at hand."""
        for entry in reversed(self.history):
            if entry["from_step"] <= step:
                low, high = entry["clip"]
                return self._objectives[low, high]
        return self._first

    def look(self, model: Transformer, split: PackedSplit, recipe: Recipe, step: int, group: Group) -> None:
        """Try the grid with a network's weights after `step` steps, and choose. All processes must do so together."""
        tried = []
        if group.leads:  # one process decides for all
            sequences, count = list(range(len(split))), recipe.objective.clip_batches
            batches = Batches.choose(split, sequences, recipe.train.batch_size, count, recipe.eval.seed)
            tried = try_clips(model, self._first, self.grid, batches, recipe.progress(step))
        self.choose(step, group.from_leader(tried))

    def choose(self, step: int, tried: list[Tried]) -> None:
        """Note what was `tried` once `step` steps were done, and draw from the best interval soon after."""
        self.history.append(
            {
                "step": step,
                "from_step": step + READY_AFTER,
                "clip": list(least(tried).clip),
                "tried": [each.summary() for each in tried],
            }
        )

    def state_dict(self) -> list[ChosenClip]:
        return list(self.history)

    def load_state_dict(self, history: list[ChosenClip]) -> None:
        self.history = list(history)
