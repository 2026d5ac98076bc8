"""Progress of a reproduction: one bar over all of it, and a line for each finished task."""

from __future__ import annotations

import sys
from types import TracebackType

from bd3cli.cli.common import notice, progress_bar


class ReproductionProgress:
    """A `bd3cli.reproduce.runner.Watch` for people; the bar's unit is the estimated cost of a training step."""

    def __init__(self) -> None:
        self._bar = progress_bar("reproducing")
        self._task = self._bar.add_task("all", total=None, note="")

    def __enter__(self) -> ReproductionProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, total: float) -> None:
        self._bar.update(self._task, total=total)

    def doing(self, text: str) -> None:
        self._bar.update(self._task, note=text)

    def advance(self, units: float) -> None:
        self._bar.advance(self._task, units)

    def done(self, text: str) -> None:
        if self._bar.disable:
            notice(text)
        else:
            self._bar.console.print(f"bd3cli: {text}", markup=False)
        sys.stderr.flush()
