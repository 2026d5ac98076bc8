"""Check what the methods of schedules, loss weights and maskings return, wherever a plugin defines them.

A wrong type or shape would otherwise surface far from its cause, as an error of whatever uses it. Values are the
business of the laws (`bd3cli.testing`). Under torch.compile nothing is looked at.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from bd3cli.faults import PluginError, owner_of, place, subject_of

Rule = Callable[[Any, Any, tuple[Any, ...]], str | None]  # object, result, arguments -> what is wrong with the result


def see_to(cls: type, rules: Mapping[str, Rule]) -> None:
    """Have what the methods of `cls` itself return looked at; for ``__init_subclass__``."""
    for name, rule in rules.items():
        method = cls.__dict__.get(name)
        if isinstance(method, FunctionType) and not hasattr(method, "seen_to"):
            setattr(cls, name, _seen_to(method, rule))


def _seen_to(method: FunctionType, rule: Rule) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        if not torch.compiler.is_compiling():
            wrong = rule(self, result, (*args, *kwargs.values()))
            if wrong is not None:
                raise broken(method, wrong, type(self))
        return result

    call.seen_to = True  # type: ignore[attr-defined]
    return call


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


def like_input(_: Any, result: Any, arguments: tuple[Any, ...]) -> str | None:
    """A floating-point tensor of the shape of the first argument."""
    if not arguments or not isinstance(arguments[0], Tensor):
        return None
    shape = arguments[0].shape
    if not isinstance(result, Tensor):
        return f"returned {kind_of(result)}; it must return a tensor like its input, of shape {list(shape)}"
    if not result.is_floating_point() or result.shape != shape:
        return (
            f"returned {str(result.dtype).removeprefix('torch.')}{list(result.shape)}; it must return a floating-point "
            f"tensor like its input, of shape {list(shape)}"
        )
    return None


def declared(instance: Any, base: type) -> None:
    """See to the types of the plain attributes that `base` declares with a value, such as ``floor``.

    Raises:
        PluginError: naming the attribute and its value.
    """
    for name, default in vars(base).items():
        if name.startswith("_") or not (default is None or isinstance(default, (bool, int, float))):
            continue
        value = getattr(instance, name)
        good: tuple[type, ...] = (bool,) if isinstance(default, bool) else (int,)
        if isinstance(default, float):
            good = (int, float)
        if (value is None and default is None) or type(value) in good:
            continue
        kinds = "a number" if isinstance(default, float) else " or ".join(t.__name__ for t in good)
        owner = owner_of(type(instance).__module__)
        whose = f"{type(instance).__qualname__}{f' of {owner}' if owner else ''}"
        raise PluginError(f"{name} of {whose} is {value!r}; it must be {kinds}{' or None' if default is None else ''}.")


def fields_like(result: Any, shapes: Mapping[str, tuple[int, ...]], boolean: str) -> str | None:
    """The tensors of a dataclass: their shapes, bool for the one called `boolean`, floating-point for the others."""
    for name in (field.name for field in dataclasses.fields(result)):
        value, shape = getattr(result, name), shapes[name]
        if not isinstance(value, Tensor):
            return f"returned {kind_of(value)} as {name}; it must be a tensor of shape {list(shape)}"
        if tuple(value.shape) != shape:
            return f"returned {name} of shape {list(value.shape)}, not {list(shape)}"
        if (value.dtype != torch.bool) if name == boolean else not value.is_floating_point():
            wanted = "bool" if name == boolean else "floating-point"
            return f"returned {name} as {str(value.dtype).removeprefix('torch.')}, not {wanted}"
    return None


def kind_of(value: Any) -> str:
    """What a value is, for a message."""
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
