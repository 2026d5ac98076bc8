"""Errors a user can act on: one message naming the cause, the value seen and the remedy."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

__all__ = ["BD3Error", "InputError", "RunError", "did_you_mean"]

# what the system says of a path that no file can have there
IMPOSSIBLE_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)


class BD3Error(Exception):
    """Base of every error meant for the user; the command line prints it without a traceback."""

    exit_code = 1


class InputError(BD3Error, ValueError):
    """Bad usage, recipe, data, checkpoint or plugin: something the user can correct (exit code 2)."""

    exit_code = 2


class RunError(BD3Error, RuntimeError):
    """A check or a run failed although its input was well formed (exit code 1)."""


class Followed(RunError):
    """Another process of the same run failed and has told why; this one ends without a word."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` when `word` is close to one of `known`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
