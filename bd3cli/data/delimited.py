"""Read CSV and TSV files: every value as the text written there, no row merged or lost silently.

A file is **quoted** (RFC 4180: a value that begins with a quote mark ends with one, and holds them doubled; it may
hold separators and line breaks) or, TSV only, **plain** (a line is a row and quote marks are characters). Every row
must have as many values as the header.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa

from bd3cli.data.streams import Buffer, check_text, lines_of, open_bytes
from bd3cli.data.tables import Row, TableFile, missing_column, record_batches
from bd3cli.errors import InputError

Record: TypeAlias = tuple[int, list[str], int]  # the line it begins on, its values, and how many lines it takes
TAB = "\t"
LONGEST = 1 << 28  # characters of a value: a quote mark that is never closed must not fill the memory


class Malformed(Exception):
    """A line that does not fit the dialect."""

    def __init__(self, line: int, cause: str) -> None:
        super().__init__(f"line {line} {cause}")


class DelimitedRows(TableFile):
    """A CSV or TSV file; `header` names the columns of one that may lack a header line."""

    def __init__(self, path: Path, header: tuple[str, ...] = ()) -> None:
        super().__init__(path)
        self._buffer = open_bytes(path)
        check_text(path, self._buffer)
        self._separator = _separator(path, self._buffer)
        self._header = header
        self._quoted = self._separator != TAB or self._is_quoted()
        try:
            first = next(self._records(self._quoted), (1, [], 1))[1]
            self._headless = self._is_row(first)
            names = list(header) if self._headless else [name.strip() for name in first]
            if len(set(names)) != len(names) or "" in names:
                raise InputError(
                    f"The first line of {path} does not name its columns: {', '.join(map(repr, first[:6]))}. "
                    "Add a header line with a different name for each."
                )
            if next(self._data(self._quoted), None):
                self.names = names
        except Malformed as error:
            raise self._unreadable(error) from None

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for column in columns:
            if column not in self.names:
                raise missing_column(self.path, column, self.names)
        return record_batches(self.path, columns, self._rows([self.names.index(column) for column in columns]))

    def _rows(self, chosen: Sequence[int]) -> Iterator[Row]:
        spanning: list[int] = []
        try:
            for line, row, lines in self._data(self._quoted):
                if lines > 1:
                    spanning.append(line)
                yield line, [row[index] for index in chosen]
        except Malformed as error:
            raise self._unreadable(error) from None
        if spanning:
            self.notes.append(
                f"{self.path}: {len(spanning)} rows have a quoted value that spans lines, the first in line "
                f"{spanning[0]}. Check it if each line was meant to be a row."
            )

    def _is_quoted(self) -> bool:
        """Whether a TSV file is quoted. Where both dialects fit, but one would merge rows, it is the other."""
        quoted = self._survey(True)
        if quoted == "fits":
            return True
        plain = self._survey(False)
        if isinstance(plain, Malformed):
            if isinstance(quoted, Malformed):
                raise self._unreadable(plain)
            return True
        header = next(self._records(False), (1, [], 1))[1]
        if not isinstance(quoted, Malformed) and (len(header) == 1 or any(name.startswith('"') for name in header)):
            return True  # that a line has one value says nothing; quoted names say that values are quoted
        cause = quoted if isinstance(quoted, Malformed) else "otherwise some rows would span lines"
        self.notes.append(f"{self.path} is read with quote marks as characters and a row a line: {cause}.")
        return False

    def _survey(self, quoted: bool) -> Literal["fits", "spans"] | Malformed:
        """Whether every row has as many values as the first in this dialect, and if so whether any spans lines."""
        try:
            longest = max((lines for _, _, lines in self._data(quoted)), default=1)
        except Malformed as error:
            return error
        return "fits" if longest == 1 else "spans"

    def _is_row(self, first: list[str]) -> bool:
        """Whether the first record is a row of a file that lacks a header line."""
        header = self._header
        return bool(header) and len(first) == len(header) and {name.strip() for name in first} != set(header)

    def _data(self, quoted: bool) -> Iterator[Record]:
        """Records below the header; all are as wide as it."""
        width = 0
        for record in self._records(quoted):
            line, row, _ = record
            if width and len(row) != width:
                raise Malformed(line, f"has {len(row)} values and the first line {width}")
            if width or self._is_row(row):
                yield record
            width = len(row)

    def _records(self, quoted: bool) -> Iterator[Record]:
        """Every record; a line without a value is none."""
        if quoted:
            records = self._quoted_records()
        else:
            lines = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in lines_of(self._buffer))
            records = ((number, line.split(self._separator), 1) for number, line in lines)
        return (record for record in records if len(record[1]) > 1 or "".join(record[1]).strip())

    def _quoted_records(self) -> Iterator[Record]:
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))  # there is one for the whole process
        reader = csv.reader((line for _, line in lines_of(self._buffer)), delimiter=self._separator, strict=True)
        begin = 1
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise Malformed(begin, _explained(str(error), begin, reader.line_num)) from None
            yield begin, row, reader.line_num - begin + 1
            begin = reader.line_num + 1

    def _unreadable(self, error: Malformed) -> InputError:
        return InputError(
            f"{self.path} cannot be read as {'tsv' if self._separator == TAB else 'csv'}: {error}. Put a value that "
            "holds a separator, line break or quote mark between quote marks, and double those in it."
        )


def _separator(path: Path, buffer: Buffer) -> str:
    """A tab in TSV files; in others the comma, or what the header line has instead of one."""
    if ".tsv" in [suffix.lower() for suffix in path.suffixes]:
        return TAB
    header = next((line for _, line in lines_of(buffer) if line.strip()), "")
    return next((mark for mark in (",", ";", TAB) if mark in header), ",")


def _explained(error: str, begin: int, end: int) -> str:
    """What the `csv` module objects to, in words about the file."""
    if "expected after" in error:
        where = f", in line {end}" if end > begin else ""
        return f"has a value between quote marks with something after the closing one{where}"
    if "unexpected end" in error or "field limit" in error:
        return "opens a quote mark that is never closed"
    if "new-line" in error:
        return "has a carriage return in a value without quote marks (lines end in \\n or \\r\\n)"
    return f"is refused: {error}"
