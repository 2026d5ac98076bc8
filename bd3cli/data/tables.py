"""Read tables a batch of rows at a time, and only the columns asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from bd3cli.errors import InputError, did_you_mean

Row: TypeAlias = tuple[int, Sequence[str | None]]  # the line it begins on, and its values
BATCH = 1000  # rows read at once
BATCH_CHARACTERS = 1 << 24  # fewer rows when they are this long


class TableFile(ABC):
    """A file of rows.

    Attributes:
        names: of its columns, of JSON those of its first row; empty when it has no row.
        notes: what a user should be told of how it was read, filled in as that is done.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.notes: list[str] = []

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows in order, each value of `columns` as ``large_string``; null where there is none.

        Raises:
            InputError: a column that is not there or holds something else than text, with its line or row.
        """


def choose_columns(names: Sequence[str], wanted: str | None, default: str | None) -> list[str]:
    """The columns that hold the text: `wanted`, else `default`, else ``text``; ``a+b`` is two, unless it is one."""
    column = wanted or default or "text"
    return [column] if column in names else column.split("+")


def missing_column(name: object, column: str, there: Sequence[str]) -> InputError:
    """The error to raise for a column that is not there."""
    shown = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    return InputError(
        f"{name} has no column {column!r}.{did_you_mean(column, there)} Its columns are {shown or 'none'}. Choose the "
        "one that holds the text with data.column."
    )


def not_text(where: str, column: str, what: str, texts: Sequence[str]) -> InputError:
    """The error to raise for a column that holds `what`; `texts` are columns that would do."""
    return InputError(
        f"Column {column!r} of {where} holds {what}, not text. Make it text, or choose another with "
        f"data.column{': ' + ', '.join(texts) if texts else ''}."
    )


def record_batches(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """Rows that were parsed one by one, as batches.

    Raises:
        InputError: a value that is no text after all: half of a surrogate pair.
    """
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row[1] if value)
        if len(batch) == BATCH or size >= BATCH_CHARACTERS:
            yield _record_batch(path, columns, batch)
            batch, size = [], 0
    if batch:
        yield _record_batch(path, columns, batch)


def _record_batch(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> pa.RecordBatch:
    values = zip(*(row for _, row in rows), strict=True)
    try:
        return pa.record_batch([pa.array(column, pa.large_string()) for column in values], list(columns))
    except UnicodeEncodeError:
        raise _lone_surrogate(path, columns, rows) from None


def _lone_surrogate(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> InputError:
    for line, row in rows:
        for column, value in zip(columns, row, strict=True):
            try:
                (value or "").encode()
            except UnicodeEncodeError as error:
                return InputError(
                    f"{path}, line {line}: {column!r} has half of a surrogate pair, "
                    f"{error.object[error.start]!a}, which stands for no character. Write the whole character, "
                    "or put U+FFFD in its place."
                )
    raise AssertionError("no row has a lone surrogate")
