"""The options that shape a recipe, shared by the commands that train or show one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bd3cli.recipes.resolve import Resolved

RecipeArgument = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A shipped recipe or a .toml file; `tiny` when left out.")
]
Family = Annotated[str | None, typer.Option(help="ar, sedd, mdlm or bd3lm.", metavar="NAME")]
BlockSize = Annotated[int | None, typer.Option(help="Block size L'; divides the length.", metavar="B")]
Length = Annotated[int | None, typer.Option(help="Context length L in tokens.", metavar="L")]
Model = Annotated[str | None, typer.Option(help="Network size: tiny, small or medium.", metavar="SIZE")]
Data = Annotated[
    str | None, typer.Option(help="Registered data set, hub name, or local file or directory.", metavar="D")
]
Tokenizer = Annotated[str | None, typer.Option(help="bytes, a tiktoken encoding, or a .tiktoken file.", metavar="T")]
Schedule = Annotated[str | None, typer.Option(help='Noise schedule, e.g. "cosine:eps=0.001".', metavar="S")]
Weight = Annotated[str | None, typer.Option(help='Loss weight, e.g. "sigmoid:k=0".', metavar="W")]
Masking = Annotated[str | None, typer.Option(help="How masks are drawn: bernoulli, count, adaptive.", metavar="M")]
Clip = Annotated[str | None, typer.Option(help="Restrict t to [A, B] in training.", metavar="A,B")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps.", metavar="N")]
BatchSize = Annotated[int | None, typer.Option(help="Sequences a step.", metavar="N")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.", metavar="N")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16.", metavar="P")]
Attention = Annotated[str | None, typer.Option(help="Block attention backend.", metavar="NAME")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.", metavar="D")]
MaxTime = Annotated[
    str | None,
    typer.Option(help="Save a checkpoint and leave after this long, e.g. 90m, 3600s, 1h30m.", metavar="TIME"),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Set any recipe key; repeatable.", metavar="SECTION.KEY=VALUE")
]

KEYS = {
    "family": "objective.family",
    "block_size": "objective.block_size",
    "length": "model.length",
    "model": "model.size",
    "data": "data.name",
    "tokenizer": "data.tokenizer",
    "schedule": "objective.schedule",
    "weight": "objective.weight",
    "masking": "objective.masking",
    "clip": "objective.clip",
    "steps": "train.steps",
    "batch_size": "train.batch_size",
    "seed": "seed",
    "precision": "train.precision",
    "attention": "train.attention",
    "device": "train.device",
}


def given_options(**options: Any) -> dict[str, tuple[Any, str]]:
    """Dotted key -> (value, option) for the options that were given."""
    return {KEYS[name]: (value, f"--{name.replace('_', '-')}") for name, value in options.items() if value is not None}


def resolve_options(recipe: str | None, overrides: list[str] | None, **options: Any) -> Resolved:
    """The recipe a command line asks for."""
    from bd3cli.recipes.resolve import resolve

    return resolve(recipe, given_options(**options), overrides or ())


def seconds(text: str | None) -> float | None:
    """Seconds of a duration such as ``90m``, ``3600s``, ``1h30m`` or ``1.5h``; a bare number is seconds.

    Raises:
        InputError: not a duration, or none at all.
    """
    import re

    from bd3cli.errors import InputError

    if text is None:
        return None
    parts = re.fullmatch(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text.strip())
    try:
        numbers = [float(part or 0) for part in parts.groups()] if parts else []
    except ValueError:
        numbers = []
    total = sum(n * unit for n, unit in zip(numbers, (86400, 3600, 60, 1), strict=False))
    if total <= 0:
        raise InputError(f"--max-time {text!r} is not a duration. Give, for example, 90m, 3600s or 1h30m.")
    return total
