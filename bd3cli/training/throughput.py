"""Tokens per second of training alone, without validations and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throughput:
    """Counts tokens, and the seconds in which they were trained on: validations and checkpoints are pauses."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begin()

    def add(self, tokens: int) -> None:
        self._tokens += tokens

    def take(self) -> float:
        """Tokens a second since the last time this was asked, or since the start."""
        rate = self._tokens / (self._clock() - self._since)
        self._begin()
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside takes no time. On a GPU, wait for the steps before it: they are not part of it."""
        start = self._clock()
        try:
            yield
        finally:
            self._since += self._clock() - start

    def _begin(self) -> None:
        self._since, self._tokens = self._clock(), 0
