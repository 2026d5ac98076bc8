"""Noise schedules: how the mask probability p grows with time t in [0, 1].

`get_schedule("gaussian:mu=0.5")` builds one from an inline specification; `NoiseSchedule` is the class to
subclass for a new one. `NoiseSchedule.noise(t)` gives the probability, its slope and the NELBO weight as one `Noise`.
"""

from __future__ import annotations

from bd3cli.plugins import load_plugins
from bd3cli.schedules.base import NoiseSchedule
from bd3cli.schedules.noise import Noise

__all__ = ["Noise", "NoiseSchedule", "get_schedule"]


def get_schedule(spec: str) -> NoiseSchedule:
    """Build the schedule named by an inline specification, for example ``"cosine:eps=0.001"``.

    Raises:
        InputError: unknown schedule or parameter, or a value the schedule refuses.
    """
    schedule: NoiseSchedule = load_plugins().schedules.make(spec)
    return schedule
