"""Standard streams that work whatever their encoding, and when they are closed or nobody reads them.

- A character that the encoding of a stream does not have is replaced: what charts and tables are drawn with by
  ASCII characters, anything else by its escape, ``\\u6f22``. Nothing is lost, and nothing fails.
- A stream that was closed leads nowhere, and so does stdout once its reader has left (``| head -1``), or a stream
  that cannot be written any more. The command goes on: a run that finished has finished. Output that was lost to
  anything else than a reader's leave is for the caller to report.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LEFT = (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ESHUTDOWN)  # nobody reads: a pipe, a terminal, a socket
PLAIN = dict(zip("●○×+▲△■□◆◇█│└─░", "ox*+^v#@%&#|+-.", strict=True)) | {"²": "^2", "±": "+/-"}


def plainly(error: UnicodeError) -> tuple[str, int]:
    """The error handler ``bd3cli``: ASCII in place of what cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in bad), error.end


codecs.register_error("bd3cli", plainly)


class Outlet(io.FileIO):
    """A file descriptor to write to. The first failure is kept, and what is written after it goes nowhere.

    Attributes:
        failure: why nothing is written any more, or None.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Write all of `data`, waiting where the descriptor does not block."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and self.failure is None:
            try:
                written = super().write(rest)
            except OSError as error:
                self.failure = error
                break
            if written is None:
                select.select([], [self], [])
            else:
                rest = rest[written:]
        return size


@contextmanager
def reliable_streams() -> Iterator[None]:
    """`sys.stdout` and `sys.stderr` as described above, until the end; streams that are no files stay as they are."""
    _occupy()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_reliable, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def reader_has_left() -> bool:
    """Whether nobody reads stdout any more."""
    outlet = _outlet(sys.stdout)
    return outlet is not None and outlet.failure is not None and outlet.failure.errno in LEFT


def undelivered() -> OSError | None:
    """Why what was written on stdout is not where it should be, unless its reader has left."""
    if sys.stdout is not None:
        sys.stdout.flush()
    outlet = _outlet(sys.stdout)
    return None if outlet is None or reader_has_left() else outlet.failure


def _reliable(stream: TextIO | None) -> TextIO:
    if stream is None:  # it was closed when Python started
        return open(os.devnull, "w", encoding="utf-8", errors="bd3cli")
    raw = getattr(getattr(stream, "buffer", None), "raw", getattr(stream, "buffer", None))
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.FileIO):
        return stream  # a notebook's, a test's, a Windows console's
    stream.flush()
    outlet = Outlet(raw.fileno())
    unbuffered = stream.write_through
    return io.TextIOWrapper(
        outlet if unbuffered else io.BufferedWriter(outlet),
        encoding=stream.encoding,
        errors="bd3cli" if stream.errors in ("strict", "surrogateescape") else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=unbuffered,
    )


def _outlet(stream: TextIO | None) -> Outlet | None:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, Outlet) else None


def _occupy() -> None:
    """Lead closed standard descriptors nowhere, lest a file that is opened becomes the place messages go to."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
