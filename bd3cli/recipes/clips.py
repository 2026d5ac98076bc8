"""The grid of clip intervals that a search looks through. Light to import: recipes are checked with it."""

from __future__ import annotations

import math

from bd3cli.errors import InputError

Interval = tuple[float, float]
MOST_INTERVALS = 200


def clip_grid(widths: str, step: float) -> list[Interval]:
    """All intervals [beta, beta + width] inside [0, 1] with beta a multiple of `step`, for every width.

    >>> clip_grid("0.5,1", 0.25)
    [(0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.0, 1.0)]

    Args:
        widths: numbers in (0, 1], separated by commas.
        step: in (0, 1].

    Raises:
        InputError: no such numbers, or more intervals than anybody wants to wait for.
    """
    if not 0 < step <= 1:
        raise InputError(f"The grid's step must lie between 0 and 1, not {step:g}.")
    grid: list[Interval] = []
    for text in widths.split(","):
        try:
            width = float(text)
        except ValueError:
            width = math.nan
        if not 0 < width <= 1:
            raise InputError(f"Clip widths must be numbers between 0 and 1 such as 0.5 or 0.3,0.5, not {widths!r}.")
        count = math.floor((1 - width) / step + 1e-9) + 1
        if len(grid) + count > MOST_INTERVALS:
            raise InputError(f"Widths {widths} at step {step:g} make more than {MOST_INTERVALS} intervals.")
        # rounded, so that an interval is the same however it was reached
        grid += [(round(i * step, 6), min(round(i * step + width, 6), 1.0)) for i in range(count)]
    return list(dict.fromkeys(grid))
