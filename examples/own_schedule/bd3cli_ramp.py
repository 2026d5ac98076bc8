"""A noise schedule of one's own, whole: the class, the hook that names it, and the check of its laws.

python -m pip install -e examples/own_schedule
bd3cli schedules plot loglinear ramp:bend=0.8
bd3cli schedules check ramp:bend=0.8
bd3cli train --schedule ramp:bend=0.8
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bd3cli import hookimpl
from bd3cli.parameters import parameter
from bd3cli.schedules import NoiseSchedule


@dataclass(frozen=True)
class Ramp(NoiseSchedule):
    """p = t (1 - bend (1 - t)): a straight line, bent downwards, so that low mask rates are drawn more often."""

    bend: float = parameter(0.5, "0 is the linear schedule", low=0.0, high=0.95)

    def mask_prob(self, t: Tensor) -> Tensor:
        """p(t), from 0 at t = 0 to 1 at t = 1. The rate p' and the weight p'/p follow from it."""
        return t * (1 - self.bend * (1 - t))


@hookimpl
def register_noise_schedules(register: Callable[[str, type], None]) -> None:
    """Called once, when bd3cli looks for plugins."""
    register("ramp", Ramp)


if __name__ == "__main__":
    from bd3cli.testing import check_schedule

    for law in check_schedule(Ramp(bend=0.8)):
        print("ok  " if law.ok else "FAIL", law.law, law.detail)
