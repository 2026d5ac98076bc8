"""The samplers by name, and which network each of them serves."""

from __future__ import annotations

from collections.abc import Iterator

from bd3cli.errors import InputError
from bd3cli.faults import PluginError, owner_of
from bd3cli.model import TransformerConfig
from bd3cli.plugins import load_plugins
from bd3cli.sampling.base import Batch
from bd3cli.spec import parse_spec


def sampler_class(spec: str) -> type[Batch]:
    """The sampler that `spec`, a name with or without parameters, asks for.

    Raises:
        InputError: unknown name, or one that cannot be used.
    """
    name = parse_spec(spec).name
    made: type[Batch] = load_plugins().registry["sampler"].get(name)
    if not (isinstance(made.families, tuple) and made.families and all(isinstance(f, str) for f in made.families)):
        owner = owner_of(made.__module__)
        raise PluginError(
            f"families of sampler {name!r}{f' of {owner}' if owner else ''} is {made.families!r}; it must be a tuple "
            'of the families it serves, such as ("mdlm", "bd3lm").'
        )
    return made


def samplers(family: str) -> Iterator[str]:
    """Names of the samplers that serve a family, those that ship with bd3cli first; broken ones are passed over."""
    for name in load_plugins().registry["sampler"].names():
        try:
            fits = family in sampler_class(name).families
        except InputError:  # `plugins list` tells
            fits = False
        if fits:
            yield name


def readers(option: str) -> list[str]:
    """Names of the samplers that read an option of a request."""
    found = []
    for name in load_plugins().registry["sampler"].names():
        try:
            reads = option in sampler_class(name).reads
        except InputError:
            reads = False
        if reads:
            found.append(name)
    return found


def choose_sampler(config: TransformerConfig, spec: str | None = None) -> str:
    """The sampler that `spec` asks for, or the family's own: the first that serves it.

    Raises:
        InputError: there is none of that name, its parameters cannot be used, or it does not serve this family.
    """
    if spec is None:
        return next(samplers(config.family))
    made = sampler_class(spec)
    if config.family not in made.families:
        raise InputError(
            f"Sampler {parse_spec(spec).name!r} serves {' and '.join(made.families)} networks; this one is "
            f"{config.family}. Choose {' or '.join(samplers(config.family))}."
        )
    made.made_options(spec)
    return spec
