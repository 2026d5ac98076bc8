"""Bytes of files: mapped into memory, and decompressed first when a name ends in ``.gz`` or ``.zst``."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import mmap
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

from bd3cli.errors import InputError

Buffer: TypeAlias = bytes | mmap.mmap
BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 24
# A mapping needs no descriptor of its own, of which a process may have a thousand or so; before 3.13 it keeps one.
UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    """Through pyarrow, which every installation has; it reads frames one after the other as one stream."""
    import pyarrow

    if not pyarrow.Codec.is_available("zstd"):
        raise InputError("This build of pyarrow cannot decompress .zst files. Decompress them, or use .gz.")
    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))


OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {".gz": gzip.open, ".zst": _open_zstd}


def open_bytes(path: Path) -> Buffer:
    """The bytes of a file, memory-mapped. Those of a compressed one are kept in a temporary file without a name.

    Raises:
        InputError: it cannot be read, or is not wholly what its name says.
    """
    with readable(path), path.open("rb") as file:
        opener = OPENERS.get(path.suffix.lower())
        if opener is None:
            return mapped(file)
        with opener(file) as unzipped, tempfile.TemporaryFile() as whole:
            shutil.copyfileobj(unzipped, whole, CHUNK)
            return mapped(whole)


def mapped(file: IO[bytes]) -> Buffer:
    """The content of an open file, mapped into memory; it may then be closed."""
    file.flush()
    file.seek(0, 2)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, **UNTRACKED) if file.tell() else b""


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the ways in which reading a file fails into errors that name it."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path} is not a complete gzip file ({error}). Compress it again.") from error
    except OSError as error:
        if error.strerror is None and path.suffix.lower() == ".zst":  # pyarrow's errors have no number
            raise InputError(f"{path} is not a complete zstd file ({error}). Compress it again.") from error
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"{path} has no room to be decompressed or gathered in {tempfile.gettempdir()}. Set TMPDIR to a "
                "directory on a larger disk."
            ) from error
        cause = error.strerror or str(error)
        raise InputError(f"{path} cannot be read: {cause}. Check the path and its permissions.") from error


def check_text(path: Path, buffer: Buffer) -> None:
    """Refuse bytes that are not UTF-8 text, naming the first offending offset and its line."""
    if buffer[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path} is UTF-16 text, by its first two bytes. Convert it to UTF-8.")
    nul = buffer.find(b"\0")
    if nul >= 0:
        raise InputError(
            f"{path} is not text: it has a NUL byte at offset {nul}, line {_line(buffer, nul)}. Give a UTF-8 text "
            "file, or name the format by its extension (.jsonl, .parquet, .csv)."
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
                f"{path} is not UTF-8 text: byte 0x{chunk[error.start]:02x} at offset {offset}, line "
                f"{_line(buffer, offset)} ({error.reason}). Convert it to UTF-8."
            ) from error
        begin += len(chunk)


def _line(buffer: Buffer, offset: int) -> int:
    """The number, from 1, of the line that `offset` is in."""
    return 1 + sum(buffer[begin : min(begin + CHUNK, offset)].count(b"\n") for begin in range(0, offset, CHUNK))


def is_blank(buffer: Buffer) -> bool:
    """Whether there is nothing but white space."""
    return all(not buffer[begin : begin + CHUNK].strip() for begin in range(0, len(buffer), CHUNK))


def lines_of(buffer: Buffer) -> Iterator[tuple[int, str]]:
    """Lines of UTF-8 text with their ends (``\\n`` alone ends one), numbered from 1; a byte order mark is left out."""
    begin = len(BOM) if buffer[: len(BOM)] == BOM else 0
    number = 1
    while begin < len(buffer):
        end = buffer.find(b"\n", begin) + 1 or len(buffer)
        yield number, buffer[begin:end].decode()
        begin = end
        number += 1
