"""Settings of the Hugging Face libraries: no long retries, no needless network access, no stray output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from bd3cli.data.network import reachable


@contextlib.contextmanager
def hub_access() -> Iterator[bool]:
    """Find out in seconds whether the hub can be reached; if not, have its libraries look in their caches."""
    import datasets.config
    import huggingface_hub.constants as constants

    off = datasets.config.HF_HUB_OFFLINE or constants.HF_HUB_OFFLINE
    if not off and reachable(constants.ENDPOINT):
        yield True
        return
    with no_network():
        yield False


@contextlib.contextmanager
def no_network() -> Iterator[bool]:
    """Switch the network off for these libraries: even for a local file they would report its use.

    They read ``HF_HUB_OFFLINE`` once, when they are imported, so it is their copies that are changed.
    """
    import datasets.config
    import huggingface_hub.constants as constants

    before = (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield False
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the log of `datasets` to ourselves, and its progress bars to terminals."""
    import datasets

    disabled, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not disabled:
            datasets.enable_progress_bars()


def brief(error: BaseException) -> str:
    """What an error of a library says, short enough to be part of a sentence."""
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
