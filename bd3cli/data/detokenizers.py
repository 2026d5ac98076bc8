"""Detokenizers: undo the spacing and escapes of corpora that are published as separated tokens.

The zero-shot perplexities of the literature are measured on text put back together in this way, so what each
rule does is part of the definition of those numbers. Rules apply in the order they are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bd3cli.errors import InputError, did_you_mean

Detokenizer = Callable[[str], str]


Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def _by_rules(rules: list[Rule]) -> Detokenizer:
    """A function that applies regular expression substitutions one after the other."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def detokenize(text: str) -> str:
        for pattern, replacement in compiled:
            text = pattern.sub(replacement, text)
        return text

    return detokenize


def _closing(marks: str) -> list[Rule]:
    """Rules that join each of these marks to the word before it: ``"so , he"`` becomes ``"so, he"``."""
    return [(f" {re.escape(mark)} ", f"{mark} ") for mark in marks]


def _enclosing(pairs: list[tuple[str, str]], inside: str) -> list[Rule]:
    """Rules that bring brackets and quotes to what they enclose: ``"( a )"`` becomes ``"(a)"``."""
    return [
        (
            re.escape(left) + inside.format(excluded=re.escape(left + right)) + re.escape(right),
            rf"{left}\1{right}",
        )
        for left, right in pairs
    ]


# WikiText: every mark is a token of its own, and "@-@" is a hyphen inside a word.
WIKITEXT: list[Rule] = [
    (r"s '", "s'"),
    (r" @([-,.])@ ", r"\1"),
    *_closing(":;.!?,"),
    (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
    (r'"\s*([^"]*?)\s*"', r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"=(?: =)+", lambda match: match[0].replace(" ", "")),
    (r" ° ", "°"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
]

# Penn Treebank: numbers are all written N, rare words <unk>, and a slash is escaped.
PTB: list[Rule] = [
    (r" 's", "'s"),
    (r"s ' ", "s' "),
    (r" n't", "n't"),
    (r" \n ", "\n"),
    (r"\\/", "/"),
    (r" N(?= )", " 1"),
    (r"([$#]) 1", r"\g<1>1"),
    (r"<unk>", "?"),
]

# LM1B: sentences as separated words, ending in a separated mark.
LM1B: list[Rule] = [
    (r"http(s?) : / / ", r"http\1://"),
    (r" '(\w+)", r"'\1"),
    (r" (\w+) \. ", r" \1. "),
    (r" (\w+) \.$", r" \1."),
    *_closing("?"),
    (r" \?$", "?"),
    *_closing("!"),
    (r" !$", "!"),
    *_closing(",:;"),
    (r" / ", "/"),
    *_enclosing([('"', '"'), ("'", "'"), ("(", ")"), ("[", "]")], " ([^{excluded}]+) "),
    (r"([$£]) ", r"\1"),
]


def _lambada(text: str) -> str:
    """Straight quotes, and the passage on a line of its own, as in the OpenAI evaluation of it."""
    return "\n" + re.sub("[“”]", '"', text).strip()


DETOKENIZERS: dict[str, Detokenizer] = {
    "wikitext": _by_rules(WIKITEXT),
    "ptb": _by_rules(PTB),
    "lm1b": _by_rules(LM1B),
    "lambada": _lambada,
    "scientific": _by_rules(WIKITEXT + LM1B),
}


def get_detokenizer(name: str) -> Detokenizer | None:
    """The detokenizer called `name`; None for ``"none"``.

    Raises:
        InputError: unknown name.
    """
    if name == "none":
        return None
    if name not in DETOKENIZERS:
        known = ["auto", "none", *DETOKENIZERS]
        raise InputError(f"There is no detokenizer {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return DETOKENIZERS[name]
