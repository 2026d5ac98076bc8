"""What a masking learns, and which step draws from what: fixed in advance, so that nothing has to wait.

Steps are cut into windows of `refresh` steps. Window w draws from the masking made of all that was seen
before window w - 1 began; it is ready a whole window before its first step, long before the data of that
step are prepared. Losses are looked at one step late, when a device has them at hand anyway.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from bd3cli.contract import broken, kind_of
from bd3cli.diffusion.batch import Batch, block_sums
from bd3cli.maskings import Learner, Masking, Observation
from bd3cli.plain import to_plain
from bd3cli.runs.records import LearnedState


def same(x: Tensor) -> Tensor:
    return x


def fetched(x: Tensor) -> Callable[[], Tensor]:
    """Start copying `x` to the host; the function returned waits for that copy alone."""
    if not x.is_cuda:
        return lambda: x.cpu()
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return host

    return wait


class LearnedMasking:
    """The masking of every step, learned from the steps well before it."""

    def __init__(self, masking: Masking, learner: Learner, block_size: int) -> None:
        self._recipe, self._block_size = masking, block_size
        self.learner = learner
        first = self._state()
        self._states: dict[int, dict[str, object]] = {0: first, 1: first}  # by window
        self._maskings = {0: made_by(learner), 1: made_by(learner)}
        self._waiting: deque[tuple[int, Callable[[], Tensor]]] = deque()

    @staticmethod
    def of(masking: Masking | None, block_size: int) -> LearnedMasking | None:
        """None for a masking that learns nothing."""
        learner = None if masking is None else masking.learner(block_size)
        return None if learner is None or masking is None else LearnedMasking(masking, learner, block_size)

    def masking(self, step: int) -> Masking:
        """What step `step`, counted from 0, draws from; for the step at hand and the next."""
        return self._maskings[step // self.learner.refresh]

    def observe(
        self, step: int, batches: list[Batch], losses: list[Tensor], gather: Callable[[Tensor], Tensor] = same
    ) -> None:
        """Take in the losses of `step`, in order of the steps.

        Args:
            batches: the step's micro-batches.
            losses: for each, [M] -log p of its masked tokens on the device, possibly still being computed.
            gather: for several processes: from a tensor [4, B, N] of each, the one of the whole batch.
        """
        parts = [torch.cat([_numbers(b, x.device), block_sums(x, b, self._block_size).unsqueeze(0)])
                 for b, x in zip(batches, losses, strict=True)]  # fmt: skip
        self._waiting.append((step, fetched(gather(torch.cat(parts, 1)))))
        while len(self._waiting) > 1:
            self._learn()

    def summary(self) -> dict[str, object]:
        self._catch_up()
        found = self.learner.summary()
        try:
            json.dumps(found)
        except (TypeError, ValueError) as error:
            raise broken(type(self.learner).summary, f"returned what JSON cannot hold ({error})") from error
        return found

    def state_dict(self) -> LearnedState:
        """Everything later steps depend on."""
        self._catch_up()
        return {"learner": self._state(), "windows": dict(self._states)}

    def load_state_dict(self, state: LearnedState) -> None:
        self._waiting.clear()
        self.learner.load_state_dict(state["learner"])
        self._states = dict(state["windows"])
        for window, known in self._states.items():
            self._maskings[window] = self._made_from(known)

    def _catch_up(self) -> None:
        while self._waiting:
            self._learn()

    def _learn(self) -> None:
        step, values = self._waiting.popleft()
        masked, maskable, factor, nll = values()
        self.learner.observe(Observation(masked.long(), maskable.long(), factor, nll))
        if (step + 1) % self.learner.refresh:
            return
        window = (step + 1) // self.learner.refresh + 1
        self._states[window], self._maskings[window] = self._state(), made_by(self.learner)
        for old in [w for w in self._states if w < window - 1]:
            del self._states[old], self._maskings[old]

    def _made_from(self, state: dict[str, object]) -> Masking:
        learner = self._recipe.learner(self._block_size)
        assert learner is not None
        learner.load_state_dict(state)
        return made_by(learner)

    def _state(self) -> dict[str, object]:
        state = self.learner.state_dict()
        try:
            to_plain(state)
        except (TypeError, RuntimeError) as error:
            wrong = f"returned what a checkpoint cannot hold ({error}); keep to tensors and plain values"
            raise broken(type(self.learner).state_dict, wrong) from error
        return state


def made_by(learner: Learner) -> Masking:
    """The masking a learner has made of what it saw.

    Raises:
        PluginError: it is none.
    """
    made: object = learner.masking()
    if not isinstance(made, Masking):
        raise broken(type(learner).masking, f"returned {kind_of(made)}; it must return a Masking")
    return made


def _numbers(batch: Batch, device: torch.device) -> Tensor:
    """[3, B, N] float64: masked tokens, maskable tokens and factor of every block."""
    drawn = batch.drawn
    assert drawn is not None, "only masked batches are learned from"
    return torch.stack([drawn.masked.double(), drawn.maskable.double(), drawn.factor]).to(device, non_blocking=True)
