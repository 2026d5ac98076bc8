"""Typed registries whose entries are imported on first use."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from typing import Generic, TypeVar

from bd3cli.errors import InputError, did_you_mean
from bd3cli.faults import describe, where
from bd3cli.spec import Spec, build, parse_spec

T = TypeVar("T")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Entry:
    """One registered name: where its class is, and which distribution it came from."""

    name: str
    target: str | type
    distribution: str
    version: str


class Registry(Generic[T]):
    """Names of one kind (schedules, weights, maskings), resolved to subclasses of a base class."""

    def __init__(self, kind: str, base: str) -> None:
        """`kind` is how messages call an entry; `base` is ``"module:Class"`` of the required base class."""
        self.kind = kind
        self._base = base
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Add one entry.

        Raises:
            InputError: malformed name or target, or a name that is taken.
        """
        if not isinstance(entry.name, str) or not NAME.fullmatch(entry.name):
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
        targets = {_known(entry.target): entry for entry in self._entries.values()}
        return next((targets[each] for each in cls.__mro__ if each in targets), None)

    def get(self, name: str) -> type[T]:
        """Import and return the class registered as `name`."""
        entry = self.entry(name)
        cls = entry.target if isinstance(entry.target, type) else _import(entry, self.kind)
        base: type[T] = _resolve(self._base)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise InputError(
                f"{self.kind} {name!r} of {entry.distribution} is {cls!r}, not a subclass of "
                f"{self._base.replace(':', '.')}."
            )
        return cls

    def make(self, text: str) -> T:
        """Build an instance from an inline specification such as ``"gaussian:mu=0.5"``.

        Raises:
            InputError: unknown name or parameter, a value the class refuses, or a class that cannot be used.
        """
        spec: Spec = parse_spec(text)
        from bd3cli.contract import declared  # needs torch, which listing names does not

        made = build(self.get(spec.name), spec, self.kind)
        declared(made, _resolve(self._base))
        return made


def _known(target: str | type) -> object:
    """The class behind a target if it has been imported."""
    if isinstance(target, type):
        return target
    module, attribute = target.split(":")
    return getattr(sys.modules.get(module), attribute, None)


def _resolve(target: str) -> type:
    module, attribute = target.split(":")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


def _import(entry: Entry, kind: str) -> type:
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
