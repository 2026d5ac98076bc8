"""Check what the methods of schedules, loss weights and maskings return, wherever a plugin defines them.

A wrong type or shape would otherwise surface far from its cause, as an error of whatever uses it. Values are the
business of the laws (`bd3cli.testing`). Under torch.compile nothing is looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from bd3cli.faults import broken, kind_of

__all__ = ["Rule", "broken", "kind_of", "like_input", "see_to", "tensors_like"]

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


def tensors_like(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], boolean: str) -> str | None:
    """Several tensors by name: their shapes, bool for the one called `boolean`, floating-point for the others."""
    for name, shape in shapes.items():
        value = values[name]
        if not isinstance(value, Tensor):
            return f"returned {kind_of(value)} as {name}; it must be a tensor of shape {list(shape)}"
        if tuple(value.shape) != shape:
            return f"returned {name} of shape {list(value.shape)}, not {list(shape)}"
        if (value.dtype != torch.bool) if name == boolean else not value.is_floating_point():
            wanted = "bool" if name == boolean else "floating-point"
            return f"returned {name} as {str(value.dtype).removeprefix('torch.')}, not {wanted}"
    return None
