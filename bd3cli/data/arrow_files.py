"""Rows of Parquet, Arrow and Feather files: of text in any of Arrow's forms, a batch at a time."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from bd3cli.data.hub_libraries import brief
from bd3cli.data.streams import open_bytes
from bd3cli.data.tables import BATCH, TableFile, missing_column, not_text
from bd3cli.errors import InputError


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are text (or all absent), however they are stored."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_text(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(kind) for test in tests)


def check_columns(schema: pa.Schema, columns: Sequence[str], name: str) -> None:
    """Refuse columns that are not in a schema, are there twice, or hold something else than text.

    Raises:
        InputError: naming the columns that are there, or that would do.
    """
    for column in columns:
        fields = schema.get_all_field_indices(column)
        if not fields:
            raise missing_column(name, column, schema.names)
        if len(fields) > 1:
            raise InputError(f"{name} has {len(fields)} columns called {column!r}. Give each a name of its own.")
        if not is_text(schema.field(column).type):
            texts = [field.name for field in schema if is_text(field.type) and not pa.types.is_null(field.type)]
            raise not_text(name, column, str(schema.field(column).type), texts)


def as_text(values: pa.Array) -> pa.Array:
    """An array of text in any form as ``large_string``."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.large_string())


class ArrowRows(TableFile):
    """A file with a schema."""

    kind: str
    schema: pa.Schema

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._open(pa.py_buffer(open_bytes(path)))
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    @abstractmethod
    def _open(self, buffer: pa.Buffer) -> None:
        """Set `schema`, and `names` if there is a row."""

    @abstractmethod
    def _read(self, columns: list[str]) -> Iterator[pa.RecordBatch]: ...

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        check_columns(self.schema, columns, str(self.path))
        row = 1
        try:
            for batch in self._read(list(columns)):
                values = [batch.column(batch.schema.get_field_index(column)) for column in columns]
                for column, each in zip(columns, values, strict=True):
                    self._check(column, each, row)
                yield pa.record_batch([as_text(each) for each in values], list(columns))
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _check(self, column: str, values: pa.Array, row: int) -> None:
        """Arrow does not look at what it reads; to touch a value of a damaged file may end the process."""
        try:
            values.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise
            index = re.search(r"at string index (\d+)", str(error))
            where = f", row {row + int(index[1])}," if index and not pa.types.is_dictionary(values.type) else ""
            raise InputError(f"{self.path}{where} is not UTF-8 text in {column!r}. Convert it to UTF-8.") from error

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(
            f"{self.path} cannot be read as {self.kind}: {brief(error)}. Check the file and its extension."
        )


class ParquetRows(ArrowRows):
    """A Parquet file."""

    kind = "parquet"

    def _open(self, buffer: pa.Buffer) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(pa.BufferReader(buffer))
        self.schema = self._file.schema_arrow
        self.names = self.schema.names if self._file.metadata.num_rows else []

    def _read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        batches: Iterator[pa.RecordBatch] = self._file.iter_batches(BATCH, columns=columns)
        return batches


class FeatherRows(ArrowRows):
    """An Arrow IPC file (Feather is one) or stream."""

    kind = "arrow"

    def _open(self, buffer: pa.Buffer) -> None:
        self._buffer = buffer
        with self._reader([]) as reader:
            self.schema = reader.schema
            self.names = self.schema.names
            if not any(batch.num_rows for batch in _batches(reader)):
                self.names = []

    def _read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._reader([self.schema.get_field_index(column) for column in columns]) as reader:
            for batch in _batches(reader):
                for begin in range(0, batch.num_rows, BATCH):
                    yield batch.slice(begin, BATCH)

    def _reader(self, fields: list[int]) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
        options = pa.ipc.IpcReadOptions(included_fields=fields or None)
        if self._buffer[:6].to_pybytes() == b"ARROW1":
            return pa.ipc.open_file(self._buffer, options=options)
        return pa.ipc.open_stream(self._buffer, options=options)


def _batches(reader: pa.RecordBatchFileReader | pa.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)
