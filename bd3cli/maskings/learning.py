"""Maskings that learn from the training losses: what they see, and what they must provide.

A masking stays a pure function. One that learns hands out a `Learner`; the learner is shown what became of
every step's draws, and makes the masking, pure again, that later steps draw from. Training decides when: a
masking serves `refresh` steps, and the one after it is made before the first of those (see
`bd3cli.training.learned`), so that data can be prepared ahead and a resumed run sees the same masks.

Shapes: B sequences of the whole batch, N blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from bd3cli.contract import kind_of

if TYPE_CHECKING:
    from bd3cli.maskings.base import Masking


@dataclass(frozen=True)
class Drawn:
    """How the blocks of a batch were masked.

    Attributes:
        masked: [B, N] number of masked tokens.
        maskable: [B, N] number of tokens that could have been.
        factor: [B, N] float64, what the loss multiplies the masking's own weight by: the loss weight, normalised.
    """

    masked: Tensor
    maskable: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Observation(Drawn):
    """What training saw of one step.

    Attributes:
        nll: [B, N] float64 nats, the sum of -log p over the masked tokens of each block; unweighted.
    """

    nll: Tensor


MEMBERS = ("refresh", "observe", "masking", "summary", "state_dict", "load_state_dict")  # of a learner


def a_learner(_: Any, result: Any, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with what `Masking.learner` returned, None if nothing is."""
    if result is None:
        return None
    missing = [name for name in MEMBERS if not hasattr(result, name)]
    if missing:
        return f"returned {kind_of(result)} without {missing[0]!r}; it must return None or a Learner"
    if not isinstance(result.refresh, int) or result.refresh < 2:
        return (
            f"returned a learner whose refresh is {result.refresh!r}; it must be a whole number of at least 2, since "
            "data are prepared a step ahead"
        )
    return None


class Learner(Protocol):
    """The learned state of a masking.

    All of it must be a function of the observations in their order, and be in `state_dict`: tensors and plain
    values, copied, so that what is observed later does not change them.
    """

    @property
    def refresh(self) -> int:
        """Steps that draw from one masking; at least 2."""
        ...

    def observe(self, seen: Observation) -> None:
        """Take in one step's losses."""
        ...

    def masking(self) -> Masking:
        """The masking to draw from, given what was observed so far: unbiased, whatever that was."""
        ...

    def summary(self) -> dict[str, Any]:
        """What was learned, as plain values for the run's metrics."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
