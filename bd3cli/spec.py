"""Inline specifications: ``name:key=value,key=value``, the way schedules and weights are named everywhere."""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bd3cli.errors import InputError, did_you_mean
from bd3cli.faults import describe, owner_of, where

T = TypeVar("T")


@dataclass(frozen=True)
class Spec:
    """A parsed specification: the registered name and its parameters, still as text."""

    name: str
    parameters: dict[str, str]


def parse_spec(text: str) -> Spec:
    """Parse ``"gaussian:mu=0.5,sigma=0.1"``; a bare name has no parameters.

    Raises:
        InputError: when the name is empty or a parameter is not ``key=value``.
    """
    name, _, rest = text.strip().partition(":")
    name = name.strip()
    if not name:
        raise InputError(f"{text!r} names nothing. Write NAME or NAME:key=value,key=value.")
    parameters: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise InputError(f"{item!r} in {text!r} is not key=value. Write {name}:key=value,key=value.")
        if key.strip() in parameters:
            raise InputError(f"{text!r} gives {key.strip()!r} twice. Keep one of them.")
        parameters[key.strip()] = value.strip()
    return Spec(name, parameters)


def format_spec(name: str, instance: Any) -> str:
    """The canonical text of an instance: its name with every parameter spelled out."""
    values = [f"{f.name}={getattr(instance, f.name)}" for f in dataclasses.fields(instance) if f.init]
    return f"{name}:{','.join(values)}" if values else name


def coerce(text: str, annotation: Any, where: str) -> Any:
    """Convert `text` to the annotated type of a field; `where` names the field in the error message."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        if len(inner) == 1:
            return coerce(text, inner[0], where)
    if origin is Literal:
        if text not in arguments:
            known = ", ".join(map(str, arguments))
            raise InputError(f"{where} cannot be {text!r}. Choose one of: {known}.{did_you_mean(text, arguments)}")
        return text
    if annotation is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise InputError(f"{where} must be true or false, not {text!r}.")
        return text.lower() in ("true", "1", "yes")
    if annotation in (int, float):
        kind = "a whole number" if annotation is int else "a number"
        try:
            number = annotation(text)
        except ValueError:
            raise InputError(f"{where} must be {kind}, not {text!r}.") from None
        if annotation is float and not math.isfinite(number):
            raise InputError(f"{where} must be {kind}, not {text!r}.")
        return number
    if annotation is str:
        return text
    raise InputError(f"{where} has a type that cannot be written on the command line ({annotation}).")


def build(cls: type[T], spec: Spec, kind: str) -> T:
    """Instantiate the dataclass `cls` from a specification, converting each parameter to its field's type.

    Raises:
        InputError: unknown parameter, value of the wrong type, or a value the class itself refuses.
    """
    if not dataclasses.is_dataclass(cls):
        raise InputError(f"{kind} {spec.name!r} is not a dataclass. Decorate it with @dataclass(frozen=True).")
    try:
        hints = get_type_hints(cls)
    except Exception as error:  # a name that is not there, or whatever evaluating an annotation does
        raise InputError(
            f"The parameters of {kind} {spec.name!r} have unreadable types: {describe(error)} "
            f"(class {cls.__qualname__} of {owner_of(cls.__module__) or cls.__module__})."
        ) from error
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    values: dict[str, Any] = {}
    for key, text in spec.parameters.items():
        if key not in known:
            has = f"its parameters are {', '.join(known)}" if known else "it takes none"
            raise InputError(f"{kind} {spec.name!r} has no parameter {key!r}; {has}.{did_you_mean(key, known)}")
        values[key] = coerce(text, hints[key], f"{key} of {kind} {spec.name!r}")
    try:
        return cls(**values)
    except InputError:
        raise
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # a mistake inside, not in the arguments
        raise InputError(f"{kind} {spec.name!r} cannot be made: {error}.") from error
    except ValueError as error:
        raise InputError(f"{kind} {spec.name!r}: {error}{where(error, cls.__module__)}") from error
