"""Check and complete what a user asks of a sampler."""

from __future__ import annotations

import re
from typing import Any

from bd3cli.data import Tokenizer
from bd3cli.errors import InputError
from bd3cli.model import Transformer, TransformerConfig
from bd3cli.sampling.base import Request
from bd3cli.sampling.choose import Choice
from bd3cli.sampling.registry import choose_sampler, readers, sampler_class
from bd3cli.sampling.stopping import StopRule

HOLE = re.compile(r"(?<!\\)\[MASK:(\d+)\]")
LONGEST = 10_000_000  # tokens of a sample: what a list of them takes is a gigabyte
MOST_STEPS = 1_000_000_000  # more cells of time than float64 uniforms tell apart are of no use
DEFAULT = Request(2, ())


def make_request(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    length: int | None = None,
    prompt: str = "",
    template: str | None = None,
    sampler: str | None = None,
    nucleus: float = 1.0,
    top_k: int | None = None,
    temperature: float = 1.0,
    steps: int | None = None,
    threshold: float | None = None,
    stride: int | None = None,
    stop: StopRule | None = None,
    cached: bool = True,
) -> Request:
    """Check and complete what a user asks for.

    Args:
        length: tokens of a sample, BOS included (the most when there is a `stop` rule); by default the model's
            context, or the template's own length.
        prompt: text every sample starts with.
        template: text with holes ``[MASK:n]`` to be filled with n tokens each, in place of a prompt.
        sampler: one that serves the model's family, such as ``"ancestral"`` or ``"mine:key=value"``; None for the
            family's own.
        stop: ends samples early.

    Raises:
        InputError: a combination that cannot be served, a value out of range, or an option the sampler would not read.
    """
    name = choose_sampler(model.config, sampler)
    for key, value in (("steps", steps), ("threshold", threshold), ("stride", stride)):
        if value is not None and key not in sampler_class(name).reads:
            raise InputError(
                f"--{key} has no effect on sampler {name!r}. Leave it out, or choose {' or '.join(readers(key))}."
            )
    if template is not None and prompt:
        raise InputError("A template takes the place of a prompt. Write the prompt's text into the template.")
    if template is not None:
        ids = template_ids(template, tokenizer, model.config)
    else:
        ids = (tokenizer.bos_id, *tokenizer.encode(prompt))
    wanted = length if length is not None else model.config.length if template is None else len(ids)
    _check_length(model.config, name, wanted, ids, template is not None)
    _check_options(model.config, steps, threshold, stride)
    options: dict[str, Any] = {"steps": steps, "threshold": threshold, "stride": stride}
    return Request(
        length=wanted,
        prompt=ids,
        sampler=name,
        choice=Choice(nucleus, top_k, temperature),
        stop=stop,
        cached=cached,
        **{key: value for key, value in options.items() if value is not None},
    )


def template_ids(template: str, tokenizer: Tokenizer, config: TransformerConfig) -> tuple[int, ...]:
    r"""BOS, and the ids of a template: its pieces of text tokenised apart, ``[MASK:n]`` as n masks.

    ``\[MASK:n]`` is text.
    """
    if not config.traits.masks:
        raise InputError(
            f"An {config.family} network writes from left to right and cannot fill in a template. Use --prompt."
        )
    assert config.mask_id is not None
    ids = [tokenizer.bos_id]
    pieces = HOLE.split(template)
    holes = [int(digits[-9:]) if not digits[:-9].strip("0") else LONGEST + 1 for digits in pieces[1::2]]
    if sum(holes) > LONGEST:
        listed = ", ".join(f"[MASK:{digits}]" for digits in pieces[1::2])
        raise InputError(
            f"The template's holes ({_shortened(listed)}) are longer than a sample can be: {LONGEST:,} tokens. "
            "Make them shorter."
        )
    for text, hole in zip(pieces[::2], [*holes, 0], strict=True):
        ids += tokenizer.encode(text.replace("\\[MASK:", "[MASK:"))
        ids += [config.mask_id] * hole
    if config.mask_id not in ids:
        raise InputError(
            f"The template {_shortened(template)!r} has no hole. Write [MASK:n] where n tokens are to be filled in."
        )
    return tuple(ids)


def _check_length(config: TransformerConfig, sampler: str, wanted: int, ids: tuple[int, ...], template: bool) -> None:
    context = config.length
    if wanted > LONGEST:
        raise InputError(f"The length must be at most {LONGEST:,} tokens, not {_shortened(str(wanted))}.")
    if wanted < 2:
        raise InputError(f"The length must be at least 2 tokens, BOS among them, not {wanted}.")
    if wanted > context and config.block_size == context and not sampler_class(sampler).windows:
        beyond = config.traits.beyond_context
        remedy = f" Longer ones need --sampler {beyond}." if beyond else ""
        raise InputError(
            f"The length must lie between 2 and the model's context of {context} tokens, not {wanted}: a "
            f"{config.family} network with one block of the whole context cannot go beyond it.{remedy}"
        )
    if len(ids) > wanted or (len(ids) == wanted and not template):
        what = "template" if template else "prompt"
        left = f"which leaves none of {wanted} to generate" if not template else f"more than the length of {wanted}"
        raise InputError(f"The {what} takes {len(ids)} tokens with BOS, {left}. Shorten the {what} or raise --length.")


def _check_options(config: TransformerConfig, steps: int | None, threshold: float | None, stride: int | None) -> None:
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise InputError(f"steps must lie between 1 and {MOST_STEPS:,}, not {steps}.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold must lie between 0 and 1, not {threshold}.")
    if stride is not None and not 1 <= stride < config.length:
        raise InputError(f"stride must lie between 1 and {config.length - 1}, below the context, not {stride}.")


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
