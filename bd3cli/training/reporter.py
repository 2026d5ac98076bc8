"""The interface through which the training loop reports its progress."""

from __future__ import annotations

from typing import Protocol

from bd3cli.evaluation import Likelihood


class Reporter(Protocol):
    """What the loop tells whoever watches. The command line draws it; a library user may ignore it."""

    def notice(self, text: str) -> None: ...

    def data(self, stage: str, done: int, total: int) -> None: ...

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None: ...

    def validation(self, step: int, result: Likelihood) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def notice(self, text: str) -> None:
        pass

    def data(self, stage: str, done: int, total: int) -> None:
        pass

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        pass

    def validation(self, step: int, result: Likelihood) -> None:
        pass
