"""From a recipe, the environment and the command line to one validated `Recipe`, each value traceable.

Precedence: command line > environment (``BD3CLI_TRAIN_STEPS=100``) > recipe file > default.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bd3cli.errors import InputError, did_you_mean
from bd3cli.recipes.families import BLOCK_DIFFUSION, get_family
from bd3cli.recipes.options import Facts, facts
from bd3cli.recipes.settings import SIZES, Recipe, read_by
from bd3cli.spec import coerce

__all__ = ["Resolved", "from_toml", "known_keys", "resolve", "shipped_recipes", "to_toml"]

ENVIRONMENT_PREFIX = "BD3CLI_"


@dataclass(frozen=True)
class Key:
    """One setting: dotted name, type, default and what else is known of it."""

    name: str
    annotation: Any
    default: Any
    facts: Facts


@dataclass(frozen=True)
class Resolved:
    """A recipe and, for every dotted key, where its value came from."""

    recipe: Recipe
    sources: dict[str, str]

    def values(self) -> dict[str, Any]:
        """Every dotted key with its value, in declaration order."""
        return {key: _lookup(self.recipe, key) for key in known_keys()}


@cache
def known_keys() -> dict[str, Key]:
    """Every dotted key a recipe may set."""
    keys: dict[str, Key] = {}

    def walk(cls: type, prefix: str) -> None:
        hints, known = get_type_hints(cls), facts(cls)
        for f in dataclasses.fields(cls):
            name, annotation = prefix + f.name, hints[f.name]
            if dataclasses.is_dataclass(annotation):
                walk(annotation, f"{name}.")  # type: ignore[arg-type]
            else:
                keys[name] = Key(name, annotation, f.default, known[f.name])

    walk(Recipe, "")
    return keys


def resolve(
    recipe: str | Path | None = None,
    options: Mapping[str, tuple[Any, str]] | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    base: Resolved | None = None,
) -> Resolved:
    """Layer the sources and validate the result.

    Args:
        recipe: name of a shipped recipe or path of a TOML file; None for ``tiny``, or for no recipe over a `base`.
        options: dotted key -> (value, the option's name) from dedicated command line options.
        overrides: ``section.key=value`` texts of ``--set``; they win over `options`.
        environment: variables to read, the process's by default.
        base: values to start from in place of the defaults.

    Raises:
        InputError: unknown recipe or key, value of the wrong type, or values that do not work together.
    """
    if base is None:
        base = Resolved(Recipe(), dict.fromkeys(known_keys(), "default"))
        recipe = "tiny" if recipe is None else recipe
    values, sources = base.values(), dict(base.sources)

    def apply(layer: Mapping[str, tuple[Any, str]]) -> None:
        if "model.size" in layer:  # a preset: it stands just below the explicit sizes of its own layer
            size, source = layer["model.size"]
            for key, value in SIZES[size].items():
                values[f"model.{key}"], sources[f"model.{key}"] = value, f"model.size={size} ({source})"
        for key, (value, source) in layer.items():
            values[key], sources[key] = value, source

    for layer in _recipe_layers(recipe) if recipe is not None else ():
        apply(layer)
    apply(_environment_layer(os.environ if environment is None else environment))
    apply({key: (typed(key, value), source) for key, (value, source) in (options or {}).items()})
    apply(dict(_parse_override(text) for text in overrides))
    _imply_blocks(values, sources, base.sources)
    _refuse_unread_blocks(values, sources)
    _imply_bernoulli(values, sources, base.sources)
    return Resolved(_construct(values), sources)


def layered(
    recipe: Recipe, sources: dict[str, str], options: Mapping[str, tuple[Any, str]], overrides: Sequence[str]
) -> Resolved:
    """`recipe`, whose values came from `sources`, with command line options on top."""
    values = {key: _lookup(recipe, key) for key in known_keys()}
    for key, (value, source) in options.items():
        values[key], sources[key] = typed(key, value), source
    for key, (value, source) in map(_parse_override, overrides):
        values[key], sources[key] = value, source
    return Resolved(_construct(values), sources)


def from_toml(text: str, source: str) -> Recipe:
    """The recipe written by `to_toml`, without consulting the environment."""
    values: dict[str, Any] = {key.name: key.default for key in known_keys().values()}
    values.update({key: value for key, (value, _) in _flatten(_parse_toml(text, source), source).items()})
    return _construct(values)


def to_toml(recipe: Recipe) -> str:
    """A recipe file with every value spelled out; values that are None are left out."""
    sections: dict[str, list[str]] = {}
    for key in known_keys():
        value = _lookup(recipe, key)
        section, _, name = key.rpartition(".")
        if value is not None:
            written = list(value) if isinstance(value, tuple) else value
            sections.setdefault(section, []).append(f"{name} = {json.dumps(written, ensure_ascii=False)}")
    parts = ["\n".join(([f"[{section}]"] if section else []) + lines) for section, lines in sections.items()]
    return "\n\n".join(parts) + "\n"


def shipped_recipes() -> dict[str, str]:
    """Name -> TOML text of the recipes that come with the package."""
    folder = resources.files("bd3cli") / "recipes"
    found = {f.name.removesuffix(".toml"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".toml")}
    return dict(sorted(found.items()))


def typed(key: str, value: Any) -> Any:
    """Convert a TOML value or a text to the type of `key`.

    Raises:
        InputError: unknown key or a value of the wrong type.
    """
    if key not in known_keys():
        sections = {name.split(".")[0] for name in known_keys() if "." in name}
        hint = did_you_mean(key, known_keys())
        if key in sections:
            hint = f" {key!r} is a section: name a key in it."
        raise InputError(f"There is no setting {key!r}.{hint} `bd3cli config show` lists them all.")
    annotation = known_keys()[key].annotation
    inner = _without_none(annotation)
    if isinstance(value, str) and value.lower() in ("none", "null") and inner is not annotation:
        return None
    if get_origin(inner) is tuple:
        return _pair(key, value)
    if isinstance(value, str):
        return coerce(value, annotation, key)
    wanted = get_args(inner)[0].__class__ if get_origin(inner) is Literal else inner
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, wanted):
        raise InputError(f"{key} must be {_describe(wanted)}, not {value!r}.")
    return value


def _recipe_layers(recipe: str | Path) -> list[dict[str, tuple[Any, str]]]:
    """The recipe's own layer, preceded by those it extends."""
    layers: list[dict[str, tuple[Any, str]]] = []
    seen: list[str] = []
    current: str | Path | None = recipe
    folder = Path()
    while current is not None:
        text, source, folder = _read_recipe(current, folder)
        if source in seen:
            raise InputError(f"Recipes extend each other in a circle: {' -> '.join([*seen, source])}.")
        seen.append(source)
        table = _parse_toml(text, source)
        parent = table.pop("extends", None)
        if parent is not None and not isinstance(parent, str):
            raise InputError(f"{source}: extends must name one recipe, not {parent!r}.")
        layer = _flatten(table, source)
        if len(seen) == 1 and "name" not in layer:
            layer["name"] = (Path(str(recipe)).stem, source)
        layers.insert(0, layer)
        current = parent
    return layers


def _read_recipe(recipe: str | Path, folder: Path) -> tuple[str, str, Path]:
    """Text, name for messages, and folder that relative `extends` start from."""
    shipped = shipped_recipes()
    if str(recipe) in shipped:
        return shipped[str(recipe)], f"recipe {recipe}", folder
    path = folder / recipe
    if not path.suffix and not path.exists():
        raise InputError(
            f"There is no recipe {str(recipe)!r}.{did_you_mean(str(recipe), shipped)} "
            f"Shipped: {', '.join(shipped)}; or give the path of a .toml file."
        )
    try:
        return path.read_text("utf-8"), str(path), path.parent
    except OSError as error:
        raise InputError(f"Recipe {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"Recipe {path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{source} is not valid TOML: {error}.") from error


def _flatten(table: Mapping[str, Any], source: str, prefix: str = "") -> dict[str, tuple[Any, str]]:
    layer: dict[str, tuple[Any, str]] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known_keys():
            layer.update(_flatten(value, source, f"{key}."))
        else:
            try:
                layer[key] = (typed(key, value), source)
            except InputError as error:
                raise InputError(f"{source}: {error}") from None
    return layer


def _environment_layer(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    names = {ENVIRONMENT_PREFIX + key.upper().replace(".", "_"): key for key in known_keys() if "." in key}
    names[f"{ENVIRONMENT_PREFIX}SEED"] = "seed"
    sections = tuple({f"{ENVIRONMENT_PREFIX}{key.split('.')[0].upper()}_" for key in known_keys() if "." in key})
    layer: dict[str, tuple[Any, str]] = {}
    for variable, text in environment.items():
        if variable in names:
            try:
                layer[names[variable]] = (typed(names[variable], text), f"${variable}")
            except InputError as error:
                raise InputError(f"Environment variable {variable}: {error}") from None
        elif variable.startswith(sections):
            raise InputError(
                f"Environment variable {variable} sets nothing.{did_you_mean(variable, names)} Unset or correct it."
            )
    return layer


def _parse_override(text: str) -> tuple[str, tuple[Any, str]]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text!r} is not section.key=value, for example --set train.steps=500.")
    return key.strip(), (typed(key.strip(), value.strip()), "--set")


def _imply_blocks(values: dict[str, Any], sources: dict[str, str], before: Mapping[str, str]) -> None:
    """Asking for a block size, of what nobody asked to be another family, asks for block diffusion."""
    asked = sources["objective.block_size"] != before["objective.block_size"]
    unasked = sources["objective.family"] == before["objective.family"]
    if asked and unasked and not get_family(values["objective.family"]).chooses_blocks:
        values["objective.family"] = BLOCK_DIFFUSION.name
        sources["objective.family"] = "implied by objective.block_size"


def _refuse_unread_blocks(values: dict[str, Any], sources: dict[str, str]) -> None:
    """A block size on the command line that the family would not read is an error, not an option without effect."""
    family, size = get_family(values["objective.family"]), values["objective.block_size"]
    effective = family.block_size(size, values["model.length"])
    asked = sources["objective.block_size"]
    if asked in ("--block-size", "--set") and size != effective:
        raise InputError(
            f"Block size {size} ({asked}) has no effect on family {family.name!r}, whose block size is {effective}. "
            f"Leave it out, or choose family {BLOCK_DIFFUSION.name}."
        )


def _imply_bernoulli(values: dict[str, Any], sources: dict[str, str], before: Mapping[str, str]) -> None:
    """Asking for a family, a schedule or a clip asks for the masking that goes with it, unless one is named."""
    default, family = known_keys()["objective.masking"].default, get_family(values["objective.family"])
    if sources["objective.masking"] != before["objective.masking"] or values["objective.masking"] != default:
        return
    if not family.masks:
        return
    if family.default_masking != default and sources["objective.family"] != before["objective.family"]:
        values["objective.masking"] = family.default_masking
        sources["objective.masking"] = "implied by objective.family"
        return
    for key in (f"objective.{name}" for name in read_by("time")):
        if values[key] != known_keys()[key].default:
            values["objective.masking"] = "bernoulli"
            sources["objective.masking"] = f"implied by {key}"
            return


def _construct(values: Mapping[str, Any]) -> Recipe:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    hints = get_type_hints(Recipe)
    parts = {name: hints[name](**part) if isinstance(part, dict) else part for name, part in nested.items()}
    return Recipe(**parts)


def _lookup(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _pair(key: str, value: Any) -> tuple[float, float]:
    parts = value.split(",") if isinstance(value, str) else value
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError):
        raise InputError(f"{key} must be two numbers such as 0.3,0.8, not {value!r}.") from None
    return low, high


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return inner[0] if len(inner) == 1 else annotation
    return annotation


def _describe(wanted: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(wanted, str(wanted))
