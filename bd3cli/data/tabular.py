"""Rows of JSON, CSV and Parquet files and of hub data sets as documents, through `datasets`."""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bd3cli.data.documents import Documents, IntArray
from bd3cli.data.hub_libraries import brief, no_network, quiet
from bd3cli.data.textfiles import check_text, first_bytes, open_bytes
from bd3cli.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import datasets

BATCH = 1000  # rows read at once
HEAD = 1 << 16  # bytes in which the header of a CSV file is looked for


class Rows(Documents):
    """The text of one column, or of several joined by a space; an absent value is an empty document."""

    def __init__(self, table: datasets.Dataset, columns: list[str]) -> None:
        self._table = table.select_columns(columns)
        self._columns = columns

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> str:
        row = self._table[index]
        return self._join([row[column] for column in self._columns])

    def __iter__(self) -> Iterator[str]:
        for batch in self._table.iter(batch_size=BATCH):
            yield from map(self._join, zip(*(batch[column] for column in self._columns), strict=True))

    @property
    def nbytes(self) -> int:
        table = self._table.data
        whole: int = sum(table.column(column).nbytes for column in self._columns)
        rows: int = table.num_rows
        return whole * len(self) // max(1, rows)

    def take(self, indices: IntArray) -> Rows:
        return Rows(self._table.select(indices), self._columns)

    @staticmethod
    def _join(values: Any) -> str:
        return " ".join(value for value in values if value)


def text_columns(table: datasets.Dataset, wanted: str | None, default: str | None, name: str) -> list[str]:
    """The columns that hold the text: `wanted`, else `default`, else ``text``.

    Raises:
        InputError: a column that is not there, or that does not hold text.
    """
    there = table.column_names
    column = wanted or default or "text"
    columns = [column] if column in there else column.split("+")
    for column in columns:
        if column not in there:
            raise InputError(
                f"{name} has no column {column!r}.{did_you_mean(column, there)} Its columns are "
                f"{', '.join(there)}. Choose the one that holds the text with data.column."
            )
        kind = getattr(table.features[column], "dtype", None)
        if kind not in ("string", "large_string"):
            texts = [c for c in there if getattr(table.features[c], "dtype", None) == "string"]
            raise InputError(
                f"Column {column!r} of {name} holds {kind or 'nested values'}, not text. Choose another with "
                f"data.column{': ' + ', '.join(texts) if texts else ''}."
            )
    return columns


def read_table(paths: list[Path], kind: str, cache_dir: Path, header: tuple[str, ...] = ()) -> datasets.Dataset:
    """The rows of files of one kind (``json``, ``csv`` or ``parquet``), converted to Arrow in `cache_dir`.

    Args:
        paths: files, in order.
        kind: their format.
        cache_dir: a directory named after the content of the files: `datasets` itself tells a changed file
            by its time only.
        header: columns of CSV files that may lack a header line.

    Raises:
        InputError: naming the file, and the line where there is one, when it is not what its name says.
    """
    options: dict[str, Any] = {}
    if kind != "parquet":
        for path in paths:
            _check_text(path)
    if kind == "csv":
        options = _csv_options(paths[0], header)
    import datasets

    try:
        with quiet(), no_network():
            # `datasets` expands wildcards, which a file's own name may well contain.
            files = [glob.escape(str(path.absolute())) for path in paths]
            return datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(cache_dir), **options)
    except Exception as error:
        for path in paths:
            _diagnose(path, kind)
        cause = error.__cause__ or error
        raise InputError(
            f"{_names(paths)} cannot be read as {kind}: {brief(cause)}. Check the file and its extension."
        ) from error


def _names(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _check_text(path: Path) -> None:
    """Refuse files without text, and such as are not text, before `datasets` does so in its own words."""
    if path.suffix != ".gz":
        buffer = open_bytes(path)
        check_text(path, buffer)
        if not buffer[:HEAD].strip() and not buffer[:].strip():
            raise InputError(f"{path} holds no text ({len(buffer)} bytes). Give a file with text in it.")
    elif not first_bytes(path, HEAD):
        raise InputError(f"{path} holds no text. Give a file with text in it.")


def _csv_options(path: Path, header: tuple[str, ...]) -> dict[str, Any]:
    """Options under which every value of a CSV file is the text that is written there."""
    import datasets

    suffixes = [suffix.lower() for suffix in path.suffixes]
    separator = "\t" if ".tsv" in suffixes else ","
    head = first_bytes(path, HEAD).decode("utf-8-sig", "replace")
    first = next(csv.reader(io.StringIO(head, newline=""), delimiter=separator), [])
    names = [name.strip() for name in first]
    headless = bool(header) and len(first) == len(header) and set(names) != set(header)
    if not headless and (len(set(first)) != len(first) or "" in names):
        raise InputError(
            f"The first line of {path} does not name its columns: {', '.join(map(repr, first[:6]))}. "
            "Add a header line with a different name for each."
        )
    columns = list(header) if headless else first
    return {
        "sep": separator,
        "header": None if headless else 0,
        "names": columns,
        "na_filter": False,
        "features": datasets.Features({column: datasets.Value("string") for column in columns}),
    }


def _diagnose(path: Path, kind: str) -> None:
    """Name the line of a JSON Lines file that cannot be read; silent when there is none such."""
    buffer = open_bytes(path)
    if kind != "json" or buffer[:64].lstrip()[:1] == b"[":
        if kind != "parquet":
            check_text(path, buffer)
        return
    check_text(path, buffer)
    for number, line in enumerate(buffer[:].splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number} is not JSON: {error}. Write one object a line, or a list of objects."
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {number} holds a {type(row).__name__}, not an object. "
                'Write lines such as {"text": "..."}.'
            )
