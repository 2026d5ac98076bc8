"""Records: JSON documents read into types and written back, with whatever another version has put into them.

`parse` checks a document against a type field by field. A type is a class derived from `Record`, a ``TypedDict`` for
what goes from file to file as it is, or anything made of them and plain values. Keys that a type does not know are
kept: a record remembers the document it was read from, and `as_plain` gives it back with what has changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from bd3cli.errors import InputError

T = TypeVar("T")
SHOWN = 60  # characters of a value in a message
WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
    dict: "an object",
    list: "a list",
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A JSON object with known fields.

    Attributes:
        document: what it was read from, as it was; empty for one made here.
    """

    document: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)


def optional(default: T) -> T:
    """A field that is left out of the document while it has its default; others are always written."""
    return field(default_factory=lambda: copy(default), metadata={"optional": True})


def read_json(kind: type[T], path: Path) -> T:
    """The document in a file, as a `kind`.

    Raises:
        InputError: it cannot be read, is no JSON, or is no `kind`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path} cannot be read: {reason}.") from error
    return parse(kind, document, str(path))


def parse(kind: type[T], document: object, source: str) -> T:
    """`document` as a `kind`; what it lacks has its default, and what `kind` does not know is kept.

    Args:
        source: the file it is from, for messages.

    Raises:
        InputError: naming the field, what it is, and what it should be.
    """
    return cast("T", _read(kind, document, source, ""))


def as_plain(value: Any) -> Any:
    """`value` as JSON has it, records and what they hold included.

    A record that was read has its document's keys in their order, then those that have come to differ from their
    defaults; one made here has all its keys but the `optional` ones at their defaults, in the order of the class.
    """
    if isinstance(value, Record):
        plain = dict(value.document)
        for one in _fields(type(value)):
            held = getattr(value, one.name)
            fresh = not value.document and not one.metadata.get("optional")
            if one.name in plain or fresh or held != _default(one):
                plain[one.name] = as_plain(held)
        return plain
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return value


def _read(kind: Any, value: object, source: str, path: str) -> object:
    """`value` as a `kind`; `path` says where in the document it is."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in (object, Any):
        return value
    if origin in (Union, UnionType):
        return _read_union(inner, value, source, path)
    if origin is Literal:
        return _expected(value in inner, value, f"one of {', '.join(map(repr, inner))}", source, path)
    if is_typeddict(kind):
        known = _expected_object(value, source, path)
        _read_fields(kind, known, kind.__required_keys__, source, path)
        return value
    if isinstance(kind, type) and origin is None and issubclass(kind, Record):
        known = _expected_object(value, source, path)
        lacking = {one.name for one in _fields(kind) if _default(one) is MISSING}
        return kind(**_read_fields(kind, known, lacking, source, path), document=known)
    if origin is dict:
        known = _expected_object(value, source, path)
        return {
            _read(inner[0], key, source, f"a key of {path}"): _read(inner[1], item, source, _inside(path, key))
            for key, item in known.items()
        }
    if origin in (list, tuple):
        return _read_items(origin, inner, value, source, path)
    right = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    return _expected(right, value, WORDS.get(kind, f"a {kind.__name__}"), source, path)


def _read_union(kinds: tuple[Any, ...], value: object, source: str, path: str) -> object:
    if value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    for kind in others[:-1]:
        try:
            return _read(kind, value, source, path)
        except InputError:
            continue
    return _read(others[-1], value, source, path)


def _read_fields(
    kind: Any, document: Mapping[str, object], required: set[str], source: str, path: str
) -> dict[str, object]:
    """The fields of `kind` that `document` has."""
    hints = _hints(kind)
    for name in sorted(required - set(document)):
        raise InputError(f"{source}: {_inside(path, name)} is missing.")
    return {
        name: _read(hint, document[name], source, _inside(path, name))
        for name, hint in hints.items()
        if name in document and name != "document"
    }


def _read_items(origin: Any, inner: tuple[Any, ...], value: object, source: str, path: str) -> object:
    if not isinstance(value, (list, tuple)):
        return _expected(False, value, WORDS[list], source, path)
    kinds = [inner[0]] * len(value) if origin is list or inner[-1] is Ellipsis else list(inner)
    if len(kinds) != len(value):
        return _expected(False, value, f"{len(kinds)} values", source, path)
    items = (_read(kind, item, source, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))
    return origin(items)


def _expected(right: bool, value: object, what: str, source: str, path: str) -> object:
    if not right:
        shown = repr(value)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise InputError(f"{source}: {path or 'the document'} is {shown}, which is not {what}.")
    return value


def _expected_object(value: object, source: str, path: str) -> Mapping[str, object]:
    return cast("Mapping[str, object]", _expected(isinstance(value, dict), value, WORDS[dict], source, path))


def _inside(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _default(one: Field[Any]) -> object:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _fields(kind: type[Record]) -> tuple[Field[Any], ...]:
    return tuple(one for one in fields(kind) if one.name != "document")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
