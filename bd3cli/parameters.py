"""Parameters of schedules, weights and maskings: type, range and explanation of each."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, get_type_hints

__all__ = ["Parameter", "describe_parameters", "parameter"]


@dataclass(frozen=True)
class Parameter:
    """What a user may set, as `schedules show` prints it.

    Attributes:
        type: readable type, for example ``float`` or ``'mixture' | 'piecewise'``.
        low, high: inclusive bounds of a number, None where there is none.
    """

    name: str
    type: str
    default: Any
    low: float | None
    high: float | None
    help: str


def parameter(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with an explanation and, for a number, inclusive bounds.

    >>> from dataclasses import dataclass
    >>> from bd3cli.parameters import parameter
    >>> from bd3cli.schedules import NoiseSchedule
    >>> @dataclass(frozen=True)
    ... class Power(NoiseSchedule):
    ...     exponent: float = parameter(2.0, "p = t^exponent", low=0.1, high=10)
    >>> Power(20.0)
    Traceback (most recent call last):
    ValueError: exponent must lie between 0.1 and 10, not be 20.0.
    """
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


def describe_parameters(cls: type) -> list[Parameter]:
    """Every parameter of a dataclass, in order; fields without `parameter` have no help and no bounds."""
    hints = get_type_hints(cls)
    return [
        Parameter(
            name=f.name,
            type=_readable(hints[f.name]),
            default=None if f.default is dataclasses.MISSING else f.default,
            low=f.metadata.get("low"),
            high=f.metadata.get("high"),
            help=f.metadata.get("help", ""),
        )
        for f in dataclasses.fields(cls)
        if f.init
    ]


def check_ranges(instance: Any) -> None:
    """Refuse numbers that are not finite or lie outside the bounds their field declares.

    Raises:
        ValueError: naming the parameter, its value and its range.
    """
    for f in dataclasses.fields(instance):
        value = getattr(instance, f.name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        low, high = f.metadata.get("low"), f.metadata.get("high")
        if not math.isfinite(value):
            raise ValueError(f"{f.name} must be a finite number, not {value}.")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"{f.name} must {_range(low, high)}, not be {value}.")


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"be at most {high:g}"
    if high is None:
        return f"be at least {low:g}"
    return f"lie between {low:g} and {high:g}"


def _readable(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")
