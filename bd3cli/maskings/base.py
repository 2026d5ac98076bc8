"""The base class of maskings, and what goes in and out of one.

A masking is a pure function. One that learns from the training losses hands out a `Learner`; the learner is
shown what became of every step's draws, and makes the masking, pure again, that later steps draw from.
Training decides when: a masking serves `refresh` steps, and the one after it is made before the first of
those (see `bd3cli.training.learned`), so that data can be prepared ahead and a resumed run sees the same
masks.

Shapes: B sequences, L positions, N = L / block_size blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from bd3cli.contract import kind_of, see_to, tensors_like
from bd3cli.parameters import check_ranges
from bd3cli.rng import stratified, uniform
from bd3cli.schedules.noise import Noise

if TYPE_CHECKING:
    from bd3cli.schedules import NoiseSchedule


@dataclass(frozen=True)
class MaskNoise:
    """All the randomness of one draw, so that a masking is a pure function that can be enumerated.

    Attributes:
        time: [B, N] float64 in [0, 1); each uniform, together stratified over batch and blocks.
        count: [B, N] float64 in [0, 1), independent.
        position: [B, L] float64 in [0, 1), independent.
        level: [B] float64 in [0, 1), stratified over the batch; not for maskings: with it a network that sees
            the noise level is given one when the masking draws no time (`bd3cli.diffusion.conditioning`).
    """

    time: Tensor
    count: Tensor
    position: Tensor
    level: Tensor

    @staticmethod
    def draw(batch: int, length: int, block_size: int, *key: int | str) -> MaskNoise:
        """Noise for a whole (global) batch, a pure function of `key`."""
        blocks = length // block_size
        return MaskNoise(
            time=stratified(batch * blocks, *key, "time").view(batch, blocks),
            count=uniform((batch, blocks), *key, "count"),
            position=uniform((batch, length), *key, "position"),
            level=stratified(batch, *key, "level"),
        )

    def rows(self, start: int, stop: int) -> MaskNoise:
        """The noise of sequences `start`..`stop`: a micro-batch or one process's share."""
        part = slice(start, stop)
        return MaskNoise(self.time[part], self.count[part], self.position[part], self.level[part])


@dataclass(frozen=True)
class MaskContext:
    """What a masking may consult besides the noise.

    Attributes:
        tokens: [B, L] clean token ids.
        maskable: [B, L] bool; False where a token is given (BOS) or not there (padding).
        block_size: positions in a block.
        schedule: the noise schedule; only maskings with `uses_schedule` may read it.
        clip: (beta, omega), the interval t is restricted to, or None.
        resample: draw the mask given that its fraction lies in the clip interval.
        token_counts: [V] how often each id occurs in the training data, where that is known.
    """

    tokens: Tensor
    maskable: Tensor
    block_size: int
    schedule: NoiseSchedule
    clip: tuple[float, float] | None = None
    resample: bool = False
    token_counts: Tensor | None = None

    def blocks(self, x_BL: Tensor) -> Tensor:
        """[B, L] -> [B, N, block_size]."""
        return x_BL.reshape(x_BL.shape[0], -1, self.block_size)


@dataclass(frozen=True)
class MaskDraw:
    """A masking's answer.

    Attributes:
        mask: [B, L] bool, True where the token is masked and predicted.
        noise: [B, N] float64; its weight * (sum of -log p over a block's masked tokens) estimates the block's NELBO,
            and the loss weight is that of its mask probability and rate.
    """

    mask: Tensor
    noise: Noise


@dataclass(frozen=True)
class Masking:
    """Chooses the masks of a training batch. Subclass it as a frozen dataclass and write `draw`.

    Attributes:
        uses_schedule: whether the schedule and the clip mean anything to it; if not, giving them is an
            error rather than an option without effect.
        uses_token_counts: whether it needs `MaskContext.token_counts`.
    """

    uses_schedule: ClassVar[bool] = False
    uses_token_counts: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        see_to(cls, {"draw": whole_draw, "learner": a_learner})

    def __post_init__(self) -> None:
        check_ranges(self)

    def draw(self, noise: MaskNoise, context: MaskContext) -> MaskDraw:
        """Masks and weights for a batch, as a pure function of its arguments."""
        raise TypeError(f"{type(self).__name__} does not define draw(noise, context)")

    def learner(self, block_size: int) -> Learner | None:
        """A fresh learner, for a masking that adapts to the training losses; None for the others."""
        return None


def whole_draw(_: Any, result: Any, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with the type or the shapes of a draw, None if nothing is."""
    if not isinstance(result, MaskDraw):
        return f"returned {kind_of(result)}; it must return a MaskDraw"
    noise: object = result.noise
    if not isinstance(noise, Noise):
        return f"returned {kind_of(noise)} as noise; it must be a Noise (of bd3cli.schedules)"
    context = next(each for each in arguments if isinstance(each, MaskContext))
    batch, length = context.tokens.shape
    blocks = (batch, length // context.block_size)
    shapes = {"mask": (batch, length), **dict.fromkeys(vars(noise), blocks)}
    return tensors_like({"mask": result.mask, **vars(noise)}, shapes, "mask")


def lowest(keys: Tensor, count: Tensor, maskable: Tensor) -> Tensor:
    """The mask [B, N, n] of the `count` [B, N] maskable positions with the lowest keys in every block.

    With independent uniform `keys` [B, N, n] this is a uniformly random subset of that size.
    """
    order = keys.masked_fill(~maskable, torch.inf).argsort(dim=-1)
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order))
    return (rank < count.unsqueeze(-1)) & maskable


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
