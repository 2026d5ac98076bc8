"""Ways to draw training masks, written in one line: the rows of a comparison.

``loglinear``, ``gaussian:mu=0.5``: the paper's masking under that schedule. ``loglinear@0.3,0.8``: clipped.
``loglinear@paper``: with the clip the paper found best for the block size. ``masking:count``: another masking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bd3cli.errors import InputError
from bd3cli.recipes.settings import ObjectiveConfig
from bd3cli.schedules.clip import require_interval

PAPER_CLIPS = {4: (0.45, 0.95), 8: (0.3, 0.8), 16: (0.3, 0.8), 128: (0.0, 0.5)}  # Arriola et al. 2025, section 5.3
MASKING = "masking:"


@dataclass(frozen=True)
class Scheme:
    """One way to draw training masks.

    Attributes:
        name: as it was written.
        schedule, clip, resample: only where the masking reads them.
    """

    name: str
    masking: str = "bernoulli"
    schedule: str = "loglinear"
    clip: tuple[float, float] | None = None
    resample: bool = False

    def applied(self, config: ObjectiveConfig) -> ObjectiveConfig:
        """`config` with this scheme in place of its own masking, schedule and clip."""
        return replace(config, masking=self.masking, schedule=self.schedule, clip=self.clip, resample=self.resample)


def parse_schemes(text: str, block_size: int) -> list[Scheme]:
    """The schemes of a list separated by semicolons, for one block size.

    Raises:
        InputError: nothing is named, one is named twice, or a clip is malformed.
    """
    names = [part.strip() for part in text.split(";") if part.strip()]
    if not names:
        raise InputError(f"{text!r} names no way to draw masks. Write for example 'loglinear;masking:count'.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{twice!r} is there twice. Keep one of them.")
    return [parse_scheme(name, block_size) for name in names]


def parse_scheme(name: str, block_size: int) -> Scheme:
    """One scheme; whether its plugins exist is found out when an objective is built from it."""
    if name.startswith(MASKING):
        return Scheme(name, masking=name.removeprefix(MASKING))
    schedule, at, interval = name.partition("@")
    if not at:
        return Scheme(name, schedule=schedule)
    if interval == "paper":
        if block_size not in PAPER_CLIPS:
            known = ", ".join(map(str, PAPER_CLIPS))
            raise InputError(
                f"The paper has no clip for block size {block_size}, only for {known}. Write {schedule}@A,B."
            )
        return Scheme(name, schedule=schedule, clip=PAPER_CLIPS[block_size])
    try:
        beta, omega = (float(part) for part in interval.split(","))
    except ValueError:
        raise InputError(f"The clip in {name!r} must be two numbers, as in {schedule}@0.3,0.8.") from None
    require_interval((beta, omega))
    return Scheme(name, schedule=schedule, clip=(beta, omega))
