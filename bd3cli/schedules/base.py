"""The base class of noise schedules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor

from bd3cli.contract import kind_of, like_input, see_to
from bd3cli.parameters import check_ranges
from bd3cli.schedules.noise import Noise

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class NoiseSchedule:
    """Mask probability p(t) = 1 - alpha(t) for t in [0, 1]: nondecreasing, p(0) = `floor`, p(1) = 1.

    Subclass it as a frozen dataclass whose fields are the parameters, and write `mask_prob`. The rate p'
    comes from automatic differentiation unless `rate` is overridden, and the NELBO weight p'/p follows from
    the two, so the weight cannot drift from the schedule. Ask with `noise`, which gives all three together.

    Every method takes and returns a tensor of one floating-point dtype and shape, on one device. Training
    passes float64.

    Attributes:
        floor: p(0), 0 for most schedules.
        sweeps: how many times p covers [floor, 1] while t runs over [0, 1]; more than 1 only for a
            schedule that is monotone piece by piece. The weight is divided by it.
        t_min: smallest t that is drawn in training. Schedules whose estimator has infinite variance at
            t = 0 keep away from it.
        only_block_size: the one block size the schedule is defined for, or None.
    """

    floor: ClassVar[float] = 0.0
    sweeps: ClassVar[int] = 1
    t_min: ClassVar[float] = 0.0
    only_block_size: ClassVar[int | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        numbers = dict.fromkeys(("mask_prob", "rate", "weight"), like_input)
        see_to(cls, {**numbers, "at_progress": a_schedule})

    def __post_init__(self) -> None:
        check_ranges(self)

    def mask_prob(self, t: Tensor) -> Tensor:
        """Mask probability p(t), same shape as `t`."""
        raise TypeError(f"{type(self).__name__} does not define mask_prob(t)")

    def rate(self, t: Tensor) -> Tensor:
        """dp/dt, same shape as `t`; by automatic differentiation of `mask_prob`."""
        return self._differentiated(t)[1]

    def weight(self, t: Tensor) -> Tensor:
        """NELBO weight w(t) = p'(t) / (sweeps p(t)), the negative of the paper's alpha'/(1 - alpha)."""
        return self._quotient(*self._mask_prob_and_rate(t))

    @final
    def noise(self, t: Tensor) -> Noise:
        """Mask probability, rate and NELBO weight at `t`, from one evaluation of `mask_prob`.

        Made of the methods above, those that a class overrides too; not to be overridden itself.
        """
        p, rate = self._mask_prob_and_rate(t)
        derived = type(self).weight is NoiseSchedule.weight
        return Noise(p, rate, self._quotient(p, rate) if derived else self.weight(t))

    def at_progress(self, fraction: float) -> Self:
        """The schedule to use once `fraction` in [0, 1] of the training steps are done; itself by default."""
        return self

    def time_at(self, p: Tensor) -> Tensor:
        """A time where the mask probability reaches `p` in [floor, 1]: `mask_prob` inverted, in float64.

        Exact to neighbouring floating-point numbers. With several sweeps it is one of the times.
        """
        # The bit patterns of positive floats are ordered like the floats, so halving them reaches the
        # neighbouring pair in 62 steps, near t = 0 as well as near t = 1.
        low = torch.zeros(p.shape, dtype=torch.int64, device=p.device)
        high = torch.ones(p.shape, dtype=torch.float64, device=p.device).view(torch.int64)
        for _ in range(62):
            middle = (low + high) // 2
            below = self.mask_prob(middle.view(torch.float64)) < p.double()
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high.view(torch.float64)

    def _mask_prob_and_rate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        derived = type(self).rate is NoiseSchedule.rate
        return self._differentiated(t) if derived else (self.mask_prob(t), self.rate(t))

    def _differentiated(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # Forward mode: unlike torch.autograd it also works under inference_mode and inside torch.compile.
        both = torch.func.jvp(self.mask_prob, (t,), (torch.ones_like(t),))
        return both[0], both[1].to(t.dtype)  # a 0-dimensional float32 would come back as float64

    def _quotient(self, mask_prob: Tensor, rate: Tensor) -> Tensor:
        return rate / (self.sweeps * mask_prob)


def a_schedule(_: Any, result: Any, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with the schedule that training moves to, None if nothing is."""
    good = isinstance(result, NoiseSchedule)
    return None if good else f"returned {kind_of(result)}; it must return a schedule (dataclasses.replace)"
