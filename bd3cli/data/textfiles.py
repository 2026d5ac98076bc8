"""Plain text files as documents: checked to be UTF-8, then read from disk as they are needed."""

from __future__ import annotations

import contextlib
import gzip
import mmap
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bd3cli.data.spans import Spans
from bd3cli.errors import InputError

Unit = Literal["file", "paragraph", "line"]
BOUNDARY = {"line": re.compile(rb"\r?\n"), "paragraph": re.compile(rb"\r?\n(?:[ \t]*\r?\n)+")}
CHUNK = 1 << 24


def read_text_files(paths: Sequence[Path], unit: Unit) -> Spans:
    """The documents of text files; blank ones are left out.

    Raises:
        InputError: a file that cannot be read, is empty, or is not UTF-8 text.
    """
    buffers = [open_bytes(path) for path in paths]
    spans = array("q")  # three numbers a document, of which there may be millions
    for number, (path, buffer) in enumerate(zip(paths, buffers, strict=True)):
        for begin, end in _spans(path, buffer, unit):
            spans.extend((number, begin, end))
    return Spans(buffers, np.frombuffer(spans, dtype=np.int64))


def open_bytes(path: Path) -> bytes | mmap.mmap:
    """The bytes of a file, memory-mapped, or decompressed when its name ends in ``.gz``."""
    with readable(path), path.open("rb") as file:
        if path.suffix == ".gz":
            with gzip.open(file) as unzipped:
                return unzipped.read()
        file.seek(0, 2)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""


def first_bytes(path: Path, size: int) -> bytes:
    """The first bytes of a file, decompressed when its name ends in ``.gz``."""
    with readable(path), path.open("rb") as file:
        if path.suffix == ".gz":
            with gzip.open(file) as unzipped:
                return unzipped.read(size)
        return file.read(size)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the ways in which reading a file fails into errors that name it."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path} is not a complete gzip file ({error}). Compress it again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path and its permissions.") from error


def check_text(path: Path, buffer: Any) -> None:
    """Refuse bytes that are not UTF-8 text, naming the first offending offset."""
    nul = buffer.find(b"\0")
    if nul >= 0:
        raise InputError(
            f"{path} is not text: it has a NUL byte at offset {nul}. Give a UTF-8 text file, or name the "
            "format by its extension (.jsonl, .parquet, .csv)."
        )
    begin = 0
    while begin < len(buffer):
        chunk = buffer[begin : begin + CHUNK]
        try:
            chunk.decode()
        except UnicodeDecodeError as error:
            # A character may straddle the end of a chunk: begin the next one with it.
            if error.end == len(chunk) and error.reason == "unexpected end of data" and begin + CHUNK < len(buffer):
                begin += error.start
                continue
            offset = begin + error.start
            raise InputError(
                f"{path} is not UTF-8 text: byte 0x{chunk[error.start]:02x} at offset {offset} "
                f"({error.reason}). Convert it to UTF-8."
            ) from error
        begin += len(chunk)


def _spans(path: Path, buffer: Any, unit: Unit) -> Iterator[tuple[int, int]]:
    check_text(path, buffer)
    begin = 3 if buffer[:3] == b"\xef\xbb\xbf" else 0
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
