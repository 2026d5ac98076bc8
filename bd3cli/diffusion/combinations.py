"""Rules that join schedule, clip, loss weight and masking: what cannot work, and the weight's mean."""

from __future__ import annotations

import torch

from bd3cli.errors import InputError
from bd3cli.maskings import Masking
from bd3cli.maskings.bernoulli import require_attainable
from bd3cli.recipes.settings import ObjectiveConfig, read_by
from bd3cli.schedules import Noise, NoiseSchedule
from bd3cli.schedules.clip import require_interval, time_interval
from bd3cli.weights import LossWeight

__all__ = ["refuse_ignored", "refuse_impossible", "require_trainable", "require_trainable_counts", "weight_normaliser"]


def refuse_ignored(config: ObjectiveConfig, masking: Masking) -> None:
    """A schedule, clip or resampling that the masking would not read is an error, not an option without effect.

    Raises:
        InputError: naming the option and the masking that reads it.
    """
    if masking.uses_schedule:
        return
    default = ObjectiveConfig()
    for key in read_by("time", "search"):
        value = getattr(config, key)
        if value != getattr(default, key):
            raise InputError(
                f"objective.{key} {value!r} has no effect with masking {config.masking!r}, which draws no time. "
                "Use --masking bernoulli, or leave it out."
            )


def refuse_impossible(
    config: ObjectiveConfig, masking: Masking, schedule: NoiseSchedule, weight: LossWeight, block_size: int
) -> None:
    """Combinations that cannot be trained.

    Raises:
        InputError: with the reason.
    """
    if not masking.uses_schedule:
        require_trainable_counts(weight, block_size)
        return
    only = schedule.only_block_size
    if only is not None and block_size != only:
        raise InputError(
            f"Schedule {config.schedule!r} is defined for block size {only} only, where it is exactly the "
            f"autoregressive loss; this recipe has {block_size}. Choose another schedule or --block-size {only}."
        )
    require_trainable(schedule, weight, config.clip)
    if config.clip is not None and config.resample:
        require_attainable(block_size, config.clip)


POINTS = 1000


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
    masks = now.mask_prob(t) > 0
    between = f"for t in [{low:g}, {high:g}]"
    if not bool(masks.any()):
        raise InputError(f"{schedule} masks nothing {between}. Move objective.clip to later times.")
    product = weight.scaled(now.noise(t))[masks]
    bad = ~torch.isfinite(product) | (product < 0)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise InputError(
            f"The weight of {schedule} with {weight} is {product[i]:g} at t = {t[masks][i]:g}. "
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
    product = weight.scaled(_of_counts(block_size))
    if not bool(torch.isfinite(product).all()) or bool((product < 0).any()) or not bool((product > 0).any()):
        values = ", ".join(f"{x:g}" for x in product[:8].tolist())
        raise InputError(
            f"Loss weight {weight} cannot be used at block size {block_size}: times the NELBO weight it is {values} "
            f"when 1.. of {block_size} tokens are masked. Choose another weight or block size."
        )


def weight_normaliser(
    weight: LossWeight,
    schedule: NoiseSchedule,
    clip: tuple[float, float] | None = None,
    block_size: int | None = None,
) -> float:
    """Mean of w_hat over the masked tokens of training, each counted with its NELBO weight.

    Divide the loss weight by it. For masks drawn by time this is the integral of w_hat w p dt over that of
    w p dt, t in the interval that training draws from; the mean is deterministic.

    Args:
        block_size: for maskings that draw a count k uniform in 1..block_size and no time: the mean over k of
            w_hat at alpha = 1 - k / block_size. `schedule` and `clip` then play no part.

    Raises:
        InputError: when the mean is zero or not a number.
    """
    mean = _over_counts(weight, block_size) if block_size is not None else _over_times(weight, schedule, clip)
    if not 0 < mean < float("inf"):
        raise InputError(
            f"loss weight {weight} cannot be normalised: its mean over the training masks is {mean:g}. "
            "Choose another weight or clip, or turn objective.normalise_weight off."
        )
    return mean


def _over_times(weight: LossWeight, schedule: NoiseSchedule, clip: tuple[float, float] | None) -> float:
    from bd3cli.schedules.clip import time_interval
    from bd3cli.schedules.quadrature import refine

    t, dt = refine(schedule, *time_interval(schedule, clip)).nodes()
    noise = schedule.noise(t)
    p, w = noise.mask_prob, noise.weight
    inside = p > 0  # nothing is masked, and w may be infinite, where p = 0
    return float((weight.scaled(noise) * p * dt)[inside].sum() / (w * p * dt)[inside].sum())


def _over_counts(weight: LossWeight, block_size: int) -> float:
    noise = _of_counts(block_size)
    return float((weight.scaled(noise) * noise.mask_prob).mean())


def _of_counts(block_size: int) -> Noise:
    """The noise of each number of masked tokens, 1..block_size."""
    return Noise.linear(torch.arange(1, block_size + 1, dtype=torch.float64) / block_size)
