"""Live views of sampling: a panel of the denoising, a growing text, a trace."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from bd3cli.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from bd3cli.data import Tokenizer
    from bd3cli.sampling import Rows

FRAMES_A_SECOND = 20


class LivePanel:
    """The first row of a batch on stderr, masks as shaded cells. A context manager whose `watch` a sampler tells."""

    def __init__(self, tokenizer: Tokenizer, *, enabled: bool, total: int) -> None:
        self._tokenizer, self._enabled, self._total = tokenizer, enabled, total
        self._live: Any = None
        self._shown = 0.0

    def __enter__(self) -> LivePanel:
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

    def watch(self, rows: Rows, row: Tensor, position: Tensor) -> None:
        """Redraw, at most `FRAMES_A_SECOND` times a second so that watching costs next to nothing."""
        now = time.monotonic()
        if self._live is None or now - self._shown < 1 / FRAMES_A_SECOND:
            return
        self._shown = now
        from rich.panel import Panel
        from rich.text import Text

        console = self._live.console
        tokens = rows.tokens[0, : _frontier(rows)]
        plain = self._tokenizer.decode_with_masks(tokens[-8 * console.width * console.height :].tolist())
        # the tail is where things happen
        lines = Text(plain).wrap(console, console.width - 4)[-(console.height - 4) :]
        for line in lines:
            line.highlight_regex("░+", "dim cyan")
        title = f"seed {rows.seeds[0]}, {int(rows.nfe[0])} network evaluations"
        if self._total > 1:
            title += f", {len(rows)} rows of {self._total} samples in this batch"
        self._live.update(Panel(Text("\n").join(lines), title=title, width=console.width), refresh=True)


def _frontier(rows: Rows) -> int:
    """Where the block being denoised ends: what lies beyond has not been touched."""
    tokens, known = rows.tokens[0], int(rows.known[0])
    touched = (tokens[known:] != tokens[-1]).nonzero()
    return known + (int(touched[-1]) + 1 if len(touched) else 0)


class GrowingText:
    """Prints a sample's text as its tokens become final."""

    def __init__(self, tokenizer: Tokenizer, hold: int = 0, file: TextIO | None = None) -> None:
        """`hold` tokens at the end are kept back: a stop rule may still cut them off."""
        self._tokenizer, self._hold, self._file = tokenizer, hold, file or sys.stdout
        self._done = 0

    def watch(self, rows: Rows, row: Tensor, position: Tensor) -> None:
        self._print(rows.tokens[0, self._done : max(self._done, int(rows.known[0]) - self._hold)].tolist())

    def finish(self, tokens: list[int]) -> None:
        """Print the rest of the sample, and a line's end."""
        self._print(tokens[self._done :], last=True)
        self._file.write("\n")
        self._file.flush()

    def _print(self, ids: list[int], last: bool = False) -> None:
        text = self._tokenizer.decode(ids)
        if not ids or (text.endswith("\ufffd") and not last and len(ids) < 16):  # inside a character
            return
        self._done += len(ids)
        self._file.write(text)
        self._file.flush()


class Trace:
    """Writes what every network evaluation revealed, one JSON object a row and line."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = path.open("w", encoding="utf-8")
            except OSError as error:
                raise InputError(f"{path} cannot be written: {error.strerror}. Choose another --trace.") from error

    def watch(self, rows: Rows, row: Tensor, position: Tensor) -> None:
        if self._file is None:
            return
        found: dict[int, list[int]] = {i: [] for i in range(len(rows))}
        for i, at in zip(row.tolist(), position.tolist(), strict=True):
            found[i].append(at)
        for i, places in found.items():
            line = {
                "seed": rows.seeds[i],
                "nfe": int(rows.nfe[i]),
                "positions": places,
                "tokens": rows.tokens[i, places].tolist(),
            }
            self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """Collect Ctrl-C instead of dying of it, so that what is finished can be printed; a second one dies."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)
