"""Rows of local tables, of saved data sets and of the hub's as documents."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from bd3cli.data.cache import remove_stale
from bd3cli.data.documents import Documents, IntArray
from bd3cli.errors import InputError
from bd3cli.hashing import digest

if TYPE_CHECKING:
    import pyarrow as pa

    from bd3cli.data.tables import TableFile

log = logging.getLogger("bd3cli.data")
READERS = 2  # raise it when the same file would give other rows
BATCH = 1000  # rows read at once


class Rows(Documents):
    """The text of the columns of a table, several joined by a space; an absent value is an empty document."""

    def __init__(self, table: pa.Table, name: str, indices: IntArray | None = None) -> None:
        self._table = table
        self._columns = table.columns
        self._name = name
        self._indices = indices

    def __len__(self) -> int:
        return int(self._table.num_rows) if self._indices is None else len(self._indices)

    def __getitem__(self, index: int) -> str:
        at = range(len(self))[index]
        return self._row(at if self._indices is None else int(self._indices[at]))

    def __iter__(self) -> Iterator[str]:
        if self._indices is not None:
            yield from map(self._row, self._indices.tolist())
            return
        for batch in self._table.to_batches(max_chunksize=BATCH):
            try:
                columns = [column.to_pylist() for column in batch.columns]
            except UnicodeDecodeError as error:
                raise self._wrong(error) from None
            yield from map(_join, zip(*columns, strict=True))

    @property
    def columns(self) -> list[str]:
        return list(self._table.column_names)

    @property
    def nbytes(self) -> int:
        whole, rows = int(self._table.nbytes), int(self._table.num_rows)
        return whole * len(self) // max(1, rows)

    def take(self, indices: IntArray) -> Rows:
        return Rows(self._table, self._name, indices if self._indices is None else self._indices[indices])

    def _row(self, row: int) -> str:
        try:
            return _join(column[row].as_py() for column in self._columns)
        except UnicodeDecodeError as error:
            raise self._wrong(error) from None

    def _wrong(self, error: UnicodeDecodeError) -> InputError:
        begin = error.object[:40].decode("utf-8", "replace")
        return InputError(
            f"{self._name} has a row that is not UTF-8 text ({error.reason}); it begins {begin!r}. Convert it to UTF-8."
        )


def _join(values: Any) -> str:
    return " ".join(value for value in values if value)


def text_rows(table: pa.Table, wanted: str | None, default: str | None, name: str) -> Rows:
    """The rows of a table in memory, or mapped into it; its text column is `wanted`, else `default`, else ``text``.

    Raises:
        InputError: a column that is not there, or that does not hold text.
    """
    from bd3cli.data.arrow_files import check_columns
    from bd3cli.data.tables import choose_columns

    columns = choose_columns(table.column_names, wanted, default)
    check_columns(table.schema, columns, name)
    return Rows(table.select(columns), name)


@dataclass(frozen=True)
class Columns:
    """Which columns hold the text.

    Attributes:
        wanted: the column asked for, or several joined by ``+``.
        usual: the one when none is asked for; without it ``text``.
        header: the columns of CSV files that may lack a header line: all but the first make up the text.
    """

    wanted: str | None = None
    usual: str | None = None
    header: tuple[str, ...] = ()


def read_rows(
    paths: Sequence[Path], kind: str, columns: Columns, content: Sequence[str], folder: Path
) -> tuple[Rows, list[str]]:
    """The rows of files of one kind, and notes on how they were read.

    Their text is written to one Arrow file, from which rows are then read as they are needed.

    Args:
        paths: files, in order.
        kind: their format: ``json``, ``csv``, ``parquet`` or ``arrow``.
        columns: which of their columns hold the text.
        content: a hash of each of the files.
        folder: where the Arrow file is kept, named after everything that decides what is in it.

    Raises:
        InputError: naming the file, and the line where there is one, when it is not what its name says.
    """
    target = folder / digest([READERS, list(content), kind, astuple(columns)])
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    entry = _load(target)
    if entry is None:
        folder.mkdir(exist_ok=True)
        with FileLock(f"{target}.lock"):
            entry = _load(target)  # another process may have made it while this one waited
            if entry is None:
                remove_stale(folder)
                _convert(paths, kind, columns, target, name)
                entry = _load(target)
    if entry is None:
        raise InputError(f"The cache entry {target} was damaged as it was written. Check the disk.")
    table, notes = entry
    return Rows(table, name), notes


def _load(target: Path) -> tuple[pa.Table, list[str]] | None:
    """The table in a directory of the cache, mapped into memory, and its notes; None if it is absent or damaged."""
    import pyarrow as pa

    try:
        notes = json.loads((target / "notes.json").read_bytes())
        with pa.memory_map(str(target / "text.arrow")) as source:
            return pa.ipc.open_file(source).read_all(), notes
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("The cache entry %s is damaged (%s) and is made again.", target, error)
        shutil.rmtree(target, ignore_errors=True)
        return None


def _convert(paths: Sequence[Path], kind: str, columns: Columns, target: Path, name: str) -> None:
    """Write the text columns of files to a directory of the cache, whole or not at all."""
    import pyarrow as pa

    notes: list[str] = []
    batches = _batches(paths, kind, columns, notes)
    first = next(batches, None)
    if first is None:
        raise InputError(f"{name} holds no text, not one row. Give a file with text in it.")
    partial = target.with_name(f".partial-{uuid.uuid4().hex}")
    try:
        partial.mkdir()
        with pa.ipc.new_file(str(partial / "text.arrow"), first.schema) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
        (partial / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise InputError(
            f"The text of {name} could not be written to the cache {target.parent}: {error.strerror or error}. Make "
            "room, or set BD3CLI_CACHE to another directory."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for note in notes:
        log.warning("bd3cli: %s", note)


def _batches(paths: Sequence[Path], kind: str, columns: Columns, notes: list[str]) -> Iterator[pa.RecordBatch]:
    """The text columns of files, those of the first that has rows; notes on each file when it has been read."""
    from bd3cli.data.tables import choose_columns

    chosen: list[str] = []
    for path in paths:
        file = open_table(path, kind, columns.header)
        if not file.names:  # of a file without rows it does not matter which columns it has
            continue
        if not chosen:
            usual = "+".join(columns.header[1:]) if file.names == list(columns.header) else columns.usual
            chosen = choose_columns(file.names, columns.wanted, usual)
        yield from file.batches(chosen)
        notes += file.notes


def open_table(path: Path, kind: str, header: tuple[str, ...] = ()) -> TableFile:
    """A file of rows, by its format."""
    from bd3cli.data.arrow_files import FeatherRows, ParquetRows
    from bd3cli.data.delimited import DelimitedRows
    from bd3cli.data.json_rows import JsonRows

    if kind == "csv":
        return DelimitedRows(path, header)
    readers: dict[str, type[TableFile]] = {"json": JsonRows, "parquet": ParquetRows, "arrow": FeatherRows}
    return readers[kind](path)
