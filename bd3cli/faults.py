"""Attribute an exception to a plugin: by the innermost frame that lies in a plugin's code.

A traceback survives threads, automatic differentiation and re-raising, so nothing has to be wrapped around the calls
of a plugin to tell its mistakes from ours. Light to import: an error of a command that loaded no plugin loads none.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any

from bd3cli.errors import BD3Error, InputError


class PluginError(InputError):
    """A plugin broke, or gave something other than it must."""


@dataclass(frozen=True)
class Owner:
    """A distribution whose modules are a plugin's code."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def blamed(error: BaseException) -> PluginError | None:
    """What to tell of an exception that came out of a plugin's code; None for any other."""
    told = accused(error)
    if told is None:
        return None
    return PluginError(
        f"{told}. That is the plugin's mistake: correct it there, or tell its author. --debug shows the traceback."
    )


def accused(error: BaseException) -> str | None:
    """Which plugin raised what, and where: file and line.

    Errors that are meant for the user already, and want of memory, are nobody's fault.
    """
    if isinstance(error, (BD3Error, MemoryError)):
        return None
    if isinstance(error, KeyboardInterrupt) and not _raised_by_statement(error):
        return None  # someone pressed Ctrl-C while the plugin was at work
    for cause in _causes(error):
        # outermost first
        found = [(frame, line, owner) for frame, line in _frames(cause) if (owner := owner_of(_module(frame)))]
        if found:
            frame, line, owner = found[-1]
            subject = _subject([f for f, _, o in found if o == owner])
            return f"{subject} of {owner} raised {describe(cause)} ({place(frame.f_code, line)})"
    return None


@contextmanager
def blaming_plugins() -> Iterator[None]:
    """Turn whatever comes out of a plugin's code, `SystemExit` too, into a `PluginError`."""
    try:
        yield
    except BaseException as error:
        fault = blamed(error)
        if fault is None:
            raise
        raise fault from error


def broken(method: Callable[..., Any], wrong: str, cls: type | None = None) -> PluginError:
    """The error of a method, of an object of class `cls`, that gave something else than it must."""
    function = inspect.unwrap(method)
    owner = owner_of(str(function.__module__))
    subject = subject_of(cls) if cls else None
    whose = f"{subject or function.__qualname__}{f' of {owner}' if owner else ''}"
    if subject:
        wrong = f"is broken: {function.__name__} {wrong}"
    code = getattr(function, "__code__", None)
    at = "" if code is None else f" ({place(code, code.co_firstlineno)})"
    return PluginError(f"{whose} {wrong}{at}.")


def declared(instance: Any, base: type) -> None:
    """See to what `base` declares: the form of its methods, and the types of plain attributes such as ``floor``.

    Raises:
        PluginError: naming what is wrong, and how.
    """
    owner = owner_of(type(instance).__module__)
    whose = f"{type(instance).__qualname__}{f' of {owner}' if owner else ''}"
    for name, default in vars(base).items():
        if name.startswith("_"):
            continue
        wrong = None
        if isinstance(default, FunctionType):
            wrong = _wrong_form(getattr(instance, name), default)
        elif default is None or isinstance(default, (bool, int, float)):
            wrong = _wrong_type(getattr(instance, name), default)
        if wrong is not None:
            raise PluginError(f"{name} of {whose} {wrong}.")


def _wrong_form(value: Any, method: FunctionType) -> str | None:
    """What keeps `value` from being called as `method` of the base class is."""
    if not callable(value):
        return f"is {value!r}; it must stay a method: give the parameter another name"
    if hasattr(method, "__final__") and getattr(value, "__func__", None) is not method:
        return "is made of the other methods: override those, not it"
    wanted = list(inspect.signature(method).parameters)[1:]
    try:
        found = inspect.signature(value)
    except ValueError:  # of a function that is not written in Python
        return None
    try:
        found.bind(*wanted)
    except TypeError:
        return f"takes ({', '.join(found.parameters)}); it must take ({', '.join(wanted)})"
    return None


def _wrong_type(value: Any, default: float | None) -> str | None:
    good: tuple[type, ...] = (bool,) if isinstance(default, bool) else (int,)
    if isinstance(default, float):
        good = (int, float)
    if (value is None and default is None) or type(value) in good:
        return None
    kinds = "a number" if isinstance(default, float) else " or ".join(t.__name__ for t in good)
    return f"is {value!r}; it must be {kinds}{' or None' if default is None else ''}"


def describe(error: BaseException) -> str:
    """Type and first line of an exception."""
    try:
        text = str(error).strip().splitlines()
    except Exception:  # an exception of a plugin's own may not even know how to speak
        text = []
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def where(error: BaseException, module: str) -> str:
    """`` (file, line N, in f)`` of the innermost frame in a plugin's package, that of `module`; empty without."""
    package = package_of(module)
    for frame, line in reversed(list(_frames(error))):
        if within(_module(frame), package) and package != "bd3cli":
            return f" ({place(frame.f_code, line)})"
    return ""


def kind_of(value: Any) -> str:
    """What a value is, for a message."""
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def place(code: CodeType, line: int) -> str:
    return f"{code.co_filename}, line {line}, in {code.co_qualname}"


def package_of(module: str) -> str:
    """The topmost package around `module` that belongs to one distribution: namespace packages do not."""
    parts = module.split(".")
    for end in range(1, len(parts)):
        name = ".".join(parts[:end])
        known = sys.modules.get(name)
        if known is not None and getattr(known, "__file__", None):
            return name
    return module


def owner_of(module: str) -> Owner | None:
    """The plugin that a module belongs to, None for our own."""
    plugins = _loaded()
    found = plugins.packages().items() if plugins else ()
    return next((owner for package, owner in found if within(module, package)), None)


def subject_of(cls: type) -> str | None:
    """What a class is registered as, for example ``noise schedule 'gaussian'``."""
    plugins = _loaded()
    for registry in plugins.registries().values() if plugins else ():
        entry = registry.entry_of(cls)
        if entry is not None:
            return f"{registry.kind} {entry.name!r}"
    return None


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _loaded() -> Any:
    """The plugins, if any were loaded; looked up, since their room is above this module."""
    module = sys.modules.get("bd3cli.plugins")
    if module is None or not module.load_plugins.cache_info().currsize:
        return None
    plugins: Any = module.load_plugins()
    return plugins


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, and what it was raised from."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and all(cause is not other for other in seen):
        seen.append(cause)
        yield cause
        cause = cause.__cause__


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Frames and line numbers of a traceback, outermost first; generated code, as of dataclasses, left out."""
    step = error.__traceback__
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith("<"):
            yield step.tb_frame, step.tb_lineno
        step = step.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _raised_by_statement(error: BaseException) -> bool:
    """Whether the innermost frame was at a ``raise``, as it is not when a signal arrives."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and dis.opname[step.tb_frame.f_code.co_code[step.tb_lasti]] == "RAISE_VARARGS"


def _subject(frames: list[FrameType]) -> str:
    """The registered object at work, or the function that failed."""
    for frame in reversed(frames):
        known = subject_of(type(frame.f_locals.get("self")))
        if known is not None:
            return known
    return frames[-1].f_code.co_qualname
