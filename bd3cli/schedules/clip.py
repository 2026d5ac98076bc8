"""The times a schedule is trained at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bd3cli.errors import InputError
from bd3cli.schedules.base import NoiseSchedule

if TYPE_CHECKING:
    from bd3cli.weights import LossWeight

POINTS = 1000


def require_interval(clip: tuple[float, float]) -> None:
    """Refuse a clip that is no interval of [0, 1].

    Raises:
        InputError: unless 0 <= beta < omega <= 1.
    """
    beta, omega = clip
    if not 0 <= beta < omega <= 1:
        raise InputError(f"objective.clip {beta:g},{omega:g} is not an interval. It needs 0 <= beta < omega <= 1.")


def time_interval(schedule: NoiseSchedule, clip: tuple[float, float] | None) -> tuple[float, float]:
    """The interval (low, high] that t is drawn from: the clip if there is one, and not below the schedule's `t_min`.

    A clip that lies below `t_min` altogether is taken as it is.
    """
    low, high = clip or (0.0, 1.0)
    return (max(low, schedule.t_min) if schedule.t_min < high else low), high


def require_trainable(
    schedule: NoiseSchedule, weight: LossWeight, clip: tuple[float, float] | None = None, fraction: float = 0.0
) -> None:
    """Refuse a schedule and a loss weight under which some drawn time has no loss, or no time has any.

    Args:
        clip: (beta, omega), the interval t is restricted to, or None.
        fraction: share of the training steps done, for schedules that move.

    Raises:
        InputError: the clip is no interval; nothing is masked at any time in it; the product of NELBO weight
            and loss weight is not a finite number at some time, or zero at all of them.
    """
    if clip is not None:
        require_interval(clip)
    now = schedule.at_progress(fraction)
    low, high = time_interval(now, clip)
    # Bernoulli masking draws t in (low, high]: the lower end itself, where a weight may be infinite, never occurs.
    t = low + (high - low) * torch.arange(1, POINTS + 1, dtype=torch.float64) / POINTS
    p = now.mask_prob(t)
    between = f"for t in [{low:g}, {high:g}]"
    if not bool((p > 0).any()):
        raise InputError(f"{schedule} masks nothing {between}. Move objective.clip to later times.")
    product = weight.scaled(now.weight(t), 1 - p, -now.rate(t))[p > 0]
    bad = ~torch.isfinite(product) | (product < 0)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise InputError(
            f"The weight of {schedule} with {weight} is {product[i]:g} at t = {t[p > 0][i]:g}. "
            "Choose an objective.clip that avoids it, or another schedule or weight (see `bd3cli schedules check`)."
        )
    if not bool((product > 0).any()):
        raise InputError(
            f"The weight of {schedule} with {weight} is zero {between}: nothing would be learnt. "
            "Choose another weight or objective.clip."
        )


def require_trainable_counts(weight: LossWeight, block_size: int) -> None:
    """The same for maskings that draw a count k of block_size tokens, and no time.

    Raises:
        InputError: the weight is not a finite number at some k / block_size, or zero at all of them.
    """
    p = torch.arange(1, block_size + 1, dtype=torch.float64) / block_size
    product = weight.scaled(1 / p, 1 - p, -torch.ones_like(p))
    if not bool(torch.isfinite(product).all()) or bool((product < 0).any()) or not bool((product > 0).any()):
        values = ", ".join(f"{x:g}" for x in product[:8].tolist())
        raise InputError(
            f"Loss weight {weight} cannot be used at block size {block_size}: times the NELBO weight it is {values} "
            f"when 1.. of {block_size} tokens are masked. Choose another weight or block size."
        )
