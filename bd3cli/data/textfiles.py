"""Plain text files as documents: checked to be UTF-8, then read from disk as they are needed."""

from __future__ import annotations

import re
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bd3cli.data.spans import Spans
from bd3cli.data.streams import BOM, Buffer, check_text, mapped, open_bytes, readable
from bd3cli.errors import InputError

__all__ = ["Unit", "read_text_files", "readable"]

Unit = Literal["file", "paragraph", "line"]
BOUNDARY = {"line": re.compile(rb"\r?\n"), "paragraph": re.compile(rb"\r?\n(?:[ \t]*\r?\n)+")}
FEW = 64  # files that are mapped each for itself, whatever their size
SMALL = 1 << 22  # bytes


def read_text_files(paths: Sequence[Path], unit: Unit) -> Spans:
    """The documents of text files; blank ones are left out.

    Where there are many files the small ones are gathered in one temporary file: a process may only have so many open.

    Raises:
        InputError: a file that cannot be read, is empty, or is not UTF-8 text.
    """
    buffers: list[Buffer] = [b""]  # the first for those that are gathered
    spans = array("q")  # three numbers a document, of which there may be millions
    with tempfile.TemporaryFile() as gathered:
        for path in paths:
            buffer = open_bytes(path)
            number, offset = len(buffers), 0
            if len(paths) > FEW and len(buffer) < SMALL:
                number, offset = 0, gathered.tell()
                with readable(path):
                    gathered.write(buffer)
            else:
                buffers.append(buffer)
            for begin, end in _spans(path, buffer, unit):
                spans.extend((number, offset + begin, offset + end))
        buffers[0] = mapped(gathered)
    return Spans(buffers, np.frombuffer(spans, dtype=np.int64))


def _spans(path: Path, buffer: Any, unit: Unit) -> Iterator[tuple[int, int]]:
    check_text(path, buffer)
    begin = len(BOM) if buffer[: len(BOM)] == BOM else 0
    empty = True
    for start, end in _pieces(buffer, begin, unit):
        if buffer[start:end].strip():
            empty = False
            yield start, end
    if empty:
        raise InputError(f"{path} holds no text ({len(buffer)} bytes). Give a file with text in it.")


def _pieces(buffer: Any, begin: int, unit: Unit) -> Iterator[tuple[int, int]]:
    if unit != "file":
        for match in BOUNDARY[unit].finditer(buffer, begin):
            yield begin, match.start()
            begin = match.end()
    yield begin, len(buffer)
