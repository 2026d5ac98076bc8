"""What every measure of a reproduction needs besides the run: store, scale and corpus among it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bd3cli.recipes.resolve import Resolved
from bd3cli.reproduce.corpora import Corpus
from bd3cli.reproduce.scales import Scale
from bd3cli.reproduce.store import Store


@dataclass(frozen=True)
class Context:
    """What measuring needs besides the run.

    Attributes:
        corpus: the text behind a corpus name.
        recipe: a recipe that reads the text behind a corpus name.
        text: fingerprint of the training tokens behind a corpus name.
    """

    scale: Scale
    store: Store
    corpus: Callable[[str], Corpus]
    recipe: Callable[[str], Resolved]
    text: Callable[[str], str]
