"""Training progress on stderr: a live bar in a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bd3cli.cli.common import notice, progress_bar

if TYPE_CHECKING:
    from rich.progress import TaskID

    from bd3cli.evaluation import Likelihood


class TrainingProgress:
    """A `bd3cli.training.reporter.Reporter` for people."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._bar = progress_bar("training")
        self._data_bar = progress_bar("tokenising")
        self._task: TaskID | None = None
        self._data_task: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._data_bar.stop()

    def notice(self, text: str) -> None:
        self._say(text)

    def data(self, stage: str, done: int, total: int) -> None:
        if self._data_task is None:
            self._data_bar.start()
            self._data_task = self._data_bar.add_task("data", total=total, note="")
        self._data_bar.update(self._data_task, completed=done, total=total, note=stage)

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        note = f"loss {metrics['loss']:.3f}  {metrics['tokens_per_second']:,.0f} tokens/s"
        if self._bar.disable:
            if time.monotonic() - self._said > 30:  # a log file wants a line now and then, not one a step
                self._say(f"step {step}/{total}  {note}")
            return
        if self._task is None:
            self._data_bar.stop()
            self._bar.start()
            self._task = self._bar.add_task("train", total=total, note="")
        self._bar.update(self._task, completed=step, note=note)

    def validation(self, step: int, result: Likelihood) -> None:
        (low, high), n = result.nats_per_token_ci95, result.mean.effective
        bits = result.bits_per_byte
        self._say(
            f"step {step}: validation {result.nats_per_token:.4f} nats/token ({low:.4f} to {high:.4f}; n {n:.0f})"
            + (f", {bits:.3f} bits/byte" if bits is not None else "")
        )

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        if self._bar.disable or self._task is None:
            notice(text)
        else:
            self._bar.console.print(f"bd3cli: {text}", markup=False)
        sys.stderr.flush()
