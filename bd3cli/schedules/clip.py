"""The times a schedule is trained at."""

from __future__ import annotations

from bd3cli.errors import InputError
from bd3cli.schedules.base import NoiseSchedule


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
