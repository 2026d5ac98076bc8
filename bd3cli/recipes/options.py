"""What is known about an option of a recipe, said where it is declared. Light to import: no torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bd3cli.errors import InputError

# Who reads an option that not everybody reads: the loss of masked tokens; of these, maskings that draw a time; of
# these, a search for the clip; or the loss of the next token.
Reader = Literal["masks", "time", "search", "next-token"]

FACTS = "facts"


@dataclass(frozen=True)
class Facts:
    """An option apart from its name, type and default.

    Attributes:
        help: its explanation, which `config show` and the docs print.
        least, most: bounds of a whole number; the upper one is beyond what any machine can do, and small enough
            that all checks are instant.
        within: bounds of a number.
        resumable: whether a resumed run may have another value: it does not change what is trained.
        reader: the only one who reads it; None for everybody.
    """

    help: str
    least: int | None = None
    most: int = 10**15
    within: tuple[float, float] | None = None
    resumable: bool = False
    reader: Reader | None = None

    def require(self, key: str, value: Any) -> None:
        """Refuse a value of `key` out of bounds; None is in them.

        Raises:
            InputError: with key, value and bound.
        """
        if value is None:
            return
        if self.least is not None and value < self.least:
            raise InputError(f"{key} must be at least {self.least}, not {value}.")
        if self.least is not None and value > self.most:
            raise InputError(f"{key} must be at most {self.most:,}, not {value}.")
        if self.within is not None:
            low, high = self.within
            if not low <= value <= high:  # also refuses NaN
                raise InputError(f"{key} must lie between {low:g} and {high:g}, not {value}.")


def option(
    default: Any,
    help: str,
    *,
    least: int | None = None,
    most: int = 10**15,
    within: tuple[float, float] | None = None,
    resumable: bool = False,
    reader: Reader | None = None,
) -> Any:
    """A dataclass field with its `Facts`."""
    return dataclasses.field(default=default, metadata={FACTS: Facts(help, least, most, within, resumable, reader)})


def facts(section: Any) -> dict[str, Facts]:
    """Name -> what is known of each option of a section, an instance or its class; in order of declaration."""
    return {f.name: f.metadata[FACTS] for f in dataclasses.fields(section) if FACTS in f.metadata}


def require_ranges(section: Any, prefix: str = "") -> None:
    """Refuse values out of bounds in a section, whose keys begin with `prefix`, and in the sections inside.

    Raises:
        InputError: naming key, value and bound.
    """
    known = facts(section)
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if f.name in known:
            known[f.name].require(prefix + f.name, value)
        elif dataclasses.is_dataclass(value):
            require_ranges(value, f"{prefix}{f.name}.")
