"""Encode very long runs of white space, on which OpenAI's encodings overflow the stack of their engine.

The engine keeps a state for each character that ``\\s+(?!\\S)`` takes in, and gives up, as a panic, at a million. In
all of these patterns (r50k, p50k, cl100k, o200k, in old and new spelling) white space without line breaks that begins a
piece is, up to the last of its characters, one piece: no other alternative takes in more than one of them, and
``\\s+(?!\\S)`` gives back one to the word that follows. At the end of the text it is a piece as a whole. What precedes
ends there, since a piece that ends in white space ends in line breaks, and what follows is matched without looking
back. In r50k and p50k line breaks are white space like any other. In cl100k and o200k they are not: ``\\s*[\\r\\n]``
ends a piece, or several, after the last of a run, and the white space after it is a run of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONG = 1 << 18  # characters; the engine's limit is 1,000,000
# What Rust's \s is. Python's has the separators U+001C to U+001F too.
SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
RUN = re.compile(f"[{SPACE}]*")
LINE_BREAK = "[\\r\\n"  # in the patterns that tell line breaks from other white space
TO_THE_END = r"\s++$"  # newer patterns take in white space at the end of a text at once, line breaks and all


def long_runs(text: str, pattern: str) -> Iterator[tuple[str, bool]]:
    """Parts of a text whose ids, end to end, are its ids; with whether one is a single piece of the pattern."""
    begin = at = 0
    while (at := at + LONG) <= len(text):
        # A run as long as that covers a multiple of LONG; the first multiple it covers is near where it begins.
        if text[at - 1] not in SPACE:
            continue
        near = max(begin, at - LONG)
        start = near + len(text[near:at].rstrip(SPACE))
        end = _end(text, at)
        at = end // LONG * LONG  # go on behind the run
        last_break = max(text.rfind("\r", start, end), text.rfind("\n", start, end))
        if LINE_BREAK in pattern and last_break >= 0:
            if end == len(text) and TO_THE_END in pattern:
                break
            start = last_break + 1
        if end < len(text):
            end -= 1
        if end - start >= LONG // 2:
            if start > begin:
                yield text[begin:start], False
            yield text[start:end], True
            begin = end
    if begin < len(text) or not text:
        yield text[begin:], False


def _end(text: str, at: int) -> int:
    match = RUN.match(text, at)
    assert match is not None
    return match.end()
