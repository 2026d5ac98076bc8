"""A cache of token arrays: one directory an entry, written whole or not at all, checked when it is read."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from bd3cli.data.packing import Block
from bd3cli.errors import InputError

log = logging.getLogger("bd3cli.data")
IdArray = npt.NDArray[np.integer[Any]]
ALWAYS_VERIFIED = 1 << 28  # bytes; a larger array is verified when its size or time is not the one recorded
STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Entry:
    """One cached split.

    Attributes:
        rows: ``[n, L]`` ids, memory-mapped.
        lengths: ``[n]`` positions that are not padding; None when no position is.
        sha256: of the content of both.
        facts: what the writer recorded beside them.
    """

    rows: IdArray
    lengths: IdArray | None
    sha256: str
    facts: dict[str, Any]


def default_directory() -> Path:
    """``$BD3CLI_CACHE``, else the platform's place for caches."""
    chosen = os.environ.get("BD3CLI_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "bd3cli" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "bd3cli"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bd3cli"


@functools.lru_cache
def writable_directory(wanted: Path) -> Path:
    """`wanted`, made if need be; a temporary directory, with a notice, when it cannot be written to."""
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError as error:
        fallback = Path(tempfile.mkdtemp(prefix="bd3cli-"))
        atexit.register(shutil.rmtree, fallback, ignore_errors=True)
        log.warning(
            "The cache directory %s cannot be written to (%s); this run uses a temporary one. "
            "Set BD3CLI_CACHE to keep tokens between runs.",
            wanted,
            error.strerror,
        )
        return fallback


def load_or_build(
    directory: Path, key: str, build: Callable[[], tuple[Iterable[Block], Callable[[], dict[str, Any]]]]
) -> Entry:
    """The entry called `key` under `directory`; built, and kept, when there is none or it is damaged.

    `build` returns the blocks to write, and a function to call after the last of them for the facts to keep.
    Two processes that want the same entry build it once: the second waits for the first.

    Raises:
        InputError: when `build` raises it, or the disk is full.
    """
    entry = _load(directory / "tokens" / key)
    if entry is not None:
        return entry
    directory = writable_directory(directory) / "tokens"
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / f"{key}.lock"):
        entry = _load(directory / key)  # another process may have built it while this one waited
        if entry is None:
            remove_stale(directory)
            _write(directory, key, *build())
            entry = _load(directory / key)
    if entry is None:
        raise InputError(f"The cache entry {directory / key} was damaged as it was written. Check the disk.")
    return entry


def _load(path: Path) -> Entry | None:
    """The entry at `path`, or None when it is absent or damaged."""
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        rows = np.load(path / "rows.npy", mmap_mode="r")
        lengths = np.load(path / "lengths.npy") if meta["padded"] else None
        stat = (path / "rows.npy").stat()
        trusted = rows.nbytes > ALWAYS_VERIFIED and [stat.st_size, stat.st_mtime_ns] == meta["stat"]
        if not trusted and content_hash(rows, lengths) != meta["sha256"]:
            raise ValueError("checksum")
        return Entry(rows, lengths, meta["sha256"], meta["facts"])
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        log.warning("The cache entry %s is damaged (%s) and is made again.", path, error)
        return None


def content_hash(rows: IdArray, lengths: IdArray | None) -> str:
    """SHA-256 of the ids in order, and of the lengths."""
    sha = hashlib.sha256()
    step = max(1, (1 << 24) // max(1, rows.shape[1] * rows.itemsize))
    for begin in range(0, len(rows), step):
        sha.update(rows[begin : begin + step].tobytes())
    if lengths is not None:
        sha.update(lengths.tobytes())
    return sha.hexdigest()


def _write(directory: Path, key: str, blocks: Iterable[Block], facts: Callable[[], dict[str, Any]]) -> None:
    """Write an entry under a temporary name and rename it into place."""
    temporary = directory / f".partial-{uuid.uuid4().hex}"
    try:
        temporary.mkdir()
        lengths = _write_rows(temporary / "rows.npy", blocks)
        rows = np.load(temporary / "rows.npy", mmap_mode="r")
        padded = bool((lengths < rows.shape[1]).any())
        if padded:
            with (temporary / "lengths.npy").open("wb") as file:
                np.save(file, lengths)
                _sync(file)
        stat = (temporary / "rows.npy").stat()
        meta = {
            "padded": padded,
            "sha256": content_hash(rows, lengths if padded else None),
            "stat": [stat.st_size, stat.st_mtime_ns],
            "facts": facts(),
        }
        with (temporary / "meta.json").open("wb") as file:
            file.write(json.dumps(meta, indent=1).encode())
            _sync(file)
        shutil.rmtree(directory / key, ignore_errors=True)  # a damaged one: `_load` has just refused it
        os.replace(temporary, directory / key)
    except OSError as error:
        raise InputError(
            f"The tokens could not be written to the cache {directory}: {error.strerror}. "
            "Make room, or set BD3CLI_CACHE to another directory."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_rows(path: Path, blocks: Iterable[Block]) -> npt.NDArray[np.int64]:
    """Write blocks to one ``.npy`` file as they come; returns the lengths of all rows."""
    lengths: list[npt.NDArray[np.int64]] = []
    count = 0
    with path.open("wb") as file:
        first: IdArray | None = None
        for block in blocks:
            if first is None:
                first = block.rows
                header_size = _write_header(file, first, count)
            file.write(block.rows.tobytes())
            lengths.append(block.lengths)
            count += len(block.rows)
        if first is None or not count:
            raise InputError("There is no text to pack. Give a larger file.")
        file.seek(0)
        # The number of rows is known only now; numpy leaves room for it to grow in place.
        assert _write_header(file, first, count) == header_size
        _sync(file)
    return np.concatenate(lengths)


def _write_header(file: BinaryIO, like: IdArray, count: int) -> int:
    header = np.lib.format.header_data_from_array_1_0(like)
    header["shape"] = (count, like.shape[1])
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def remove_stale(directory: Path) -> None:
    """Remove what processes that were killed long ago left half-written."""
    for partial in directory.glob(".partial-*"):
        with contextlib.suppress(OSError):
            newest = max(file.stat().st_mtime for file in (partial, *partial.iterdir()))
            if time.time() - newest > STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)
