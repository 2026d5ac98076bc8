"""The live view of denoising: the first row of a batch, masks as shaded cells, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from bd3cli.sampling import Rows

FRAMES_A_SECOND = 20


class LiveTokens:
    """A context manager whose `update` is handed to a sampler."""

    def __init__(self, draw: Callable[[Rows], str], *, enabled: bool, rows: int) -> None:
        """`draw` turns rows into the text to show."""
        self._draw, self._enabled, self._rows = draw, enabled, rows
        self._live: Any = None
        self._shown = 0.0

    def __enter__(self) -> LiveTokens:
        if self._enabled:
            from rich.live import Live

            from bd3cli.cli.common import err

            self._live = Live(console=err(), transient=True, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, rows: Rows, row: Tensor, position: Tensor) -> None:
        """Redraw, at most `FRAMES_A_SECOND` times a second so that watching costs next to nothing."""
        now = time.monotonic()
        if self._live is None or now - self._shown < 1 / FRAMES_A_SECOND:
            return
        self._shown = now
        from rich.panel import Panel
        from rich.text import Text

        console = self._live.console
        # the tail is where things happen
        text = Text(self._draw(rows)).wrap(console, console.width - 4)[-(console.height - 4) :]
        title = "denoising" if self._rows == 1 else f"denoising (row 1 of {self._rows})"
        self._live.update(Panel(Text("\n").join(text), title=title, width=console.width), refresh=True)
