"""Stop training early and in good order, on a signal or when its time is up."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from bd3cli.training.distributed import Group

TIME_IS_UP = 1_000  # above every signal number


class Stop:
    """Why the run should stop, once there is a reason.

    Attributes:
        reason: 0, the number of a signal, or `TIME_IS_UP`; the same on every process once `agreed` was asked.
    """

    def __init__(self, deadline: float | None) -> None:
        """`deadline` is a `time.monotonic` time, or None."""
        self.reason, self._signal, self._deadline = 0, 0, deadline

    def agreed(self, group: Group) -> int:
        """The reason any process has; all must ask at the same step."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        self.reason = group.largest(max(self._signal, TIME_IS_UP if late else 0))
        return self.reason

    @property
    def signal(self) -> int | None:
        return self.reason if 0 < self.reason < TIME_IS_UP else None

    def note(self, number: int) -> None:
        self._signal = max(self._signal, number)


@contextmanager
def stop_requests(deadline: float | None, group: Group) -> Iterator[Stop]:
    """Collect SIGINT and SIGTERM instead of dying, so that the loop can save and leave.

    A second one dies, but not of several processes: torchrun passes on what it receives, so one Ctrl-C may
    arrive twice, and it kills what lingers itself.
    """
    stop = Stop(deadline)
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        stop.note(number)
        if group.size == 1:
            signal.signal(number, previous[number])

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: a notebook server, say
        previous = {}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
