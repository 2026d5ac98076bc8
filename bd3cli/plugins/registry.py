"""Typed registries whose entries are imported on first use."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bd3cli.errors import InputError, did_you_mean
from bd3cli.faults import declared, describe, where
from bd3cli.spec import Spec, build, parse_spec

T = TypeVar("T")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
NAME_OF_DATA = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


@dataclass(frozen=True)
class Entry:
    """One registered name: where its class is, and which distribution it came from."""

    name: str
    target: str | type
    distribution: str
    version: str


class Registry(Generic[T]):
    """Names of one kind (schedules, samplers, data sets), resolved to subclasses of a base class."""

    def __init__(self, kind: str, base: str, record: str | None = None, names: re.Pattern[str] = NAME) -> None:
        """`kind` is how messages call an entry; `base` and `record` are those of `bd3cli.plugins.kinds.Kind`."""
        self.kind = kind
        self._base = base
        self._record = record
        self._names = names
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Add one entry.

        Raises:
            InputError: malformed name or target, or a name that is taken.
        """
        if not isinstance(entry.name, str) or not self._names.fullmatch(entry.name):
            raise InputError(f"{entry.name!r} is not a name for a {self.kind}: use lower-case words and hyphens.")
        target = entry.target
        if not isinstance(target, type) and not (isinstance(target, str) and target.count(":") == 1):
            raise InputError(f"{self.kind} {entry.name!r} must be a class or 'module:Class', not {target!r}.")
        taken = self._entries.get(entry.name)
        if taken is not None:
            raise InputError(
                f"{self.kind} {entry.name!r} is already provided by {taken.distribution} {taken.version}; "
                f"{entry.distribution} {entry.version} must choose another name."
            )
        self._entries[entry.name] = entry

    def entries(self) -> list[Entry]:
        """Every entry, sorted by name."""
        return sorted(self._entries.values(), key=lambda e: e.name)

    def names(self) -> list[str]:
        """Every name, in the order of registration: those that ship with bd3cli first."""
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """The entry called `name`.

        Raises:
            InputError: unknown name, with the closest one.
        """
        if name not in self._entries:
            known = sorted(self._entries)
            raise InputError(
                f"There is no {self.kind} {name!r}.{did_you_mean(name, known)} Installed: {', '.join(known)}. "
                "A missing one may need a plugin: see `bd3cli plugins list`."
            )
        return self._entries[name]

    def entry_of(self, cls: type) -> Entry | None:
        """The entry that `cls` or a class above it was registered as; nothing is imported to find out."""
        targets = {_known(entry.target): entry for entry in self._entries.values()}  # None stands for the others
        return next((targets[each] for each in cls.__mro__ if each in targets), None)

    def get(self, name: str) -> type[T]:
        """Import and return the class registered as `name`."""
        found = self.find(name)
        if not isinstance(found, type):
            raise InputError(f"{self.kind} {name!r} of {self.entry(name).distribution} takes no parameters.")
        return found

    def find(self, name: str) -> Any:
        """Import and return what is registered as `name`: a class, or an object where those of a kind may be one.

        Raises:
            InputError: unknown name, a target that cannot be imported, or one that is something else.
        """
        entry = self.entry(name)
        found: object = entry.target if isinstance(entry.target, type) else _import(entry, self.kind)
        base: type[T] = _resolve(self._base)
        if isinstance(found, type) and issubclass(found, base):
            return found
        if self._record is not None and isinstance(found, _resolve(self._record)):
            return found
        other = "" if self._record is None else f", nor an object of {self._record.replace(':', '.')}"
        raise InputError(
            f"{self.kind} {name!r} of {entry.distribution} is {found!r}, not a subclass of "
            f"{self._base.replace(':', '.')}{other}."
        )

    def make(self, text: str) -> T:
        """Build an instance from an inline specification such as ``"gaussian:mu=0.5"``.

        Raises:
            InputError: unknown name or parameter, a value the class refuses, or a class that cannot be used.
        """
        spec: Spec = parse_spec(text)
        made = build(self.get(spec.name), spec, self.kind)
        declared(made, _resolve(self._base))
        return made


def _known(target: str | type) -> type | None:
    """The class behind a target if it is one and has been imported."""
    found: object = target
    if isinstance(target, str):
        module, attribute = target.split(":")
        found = getattr(sys.modules.get(module), attribute, None)
    return found if isinstance(found, type) else None


def _resolve(target: str) -> Any:
    module, attribute = target.split(":")
    return getattr(importlib.import_module(module), attribute)


def _import(entry: Entry, kind: str) -> object:
    assert isinstance(entry.target, str)
    try:
        return _resolve(entry.target)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit() on import
        raise InputError(
            f"{kind} {entry.name!r} of {entry.distribution} {entry.version} cannot be imported from "
            f"{entry.target!r}: {describe(error)}{where(error, entry.target.split(':')[0])}. "
            "Reinstall or remove that plugin."
        ) from error
