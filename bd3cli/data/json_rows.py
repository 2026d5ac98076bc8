"""Rows of JSON files: an object a line, or objects in a list or one after the other, laid out in any way."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bd3cli.data.streams import BOM, Buffer, check_text, lines_of, open_bytes
from bd3cli.data.tables import Row, TableFile, missing_column, not_text, record_batches
from bd3cli.errors import InputError

CHUNK = 1 << 20  # bytes of a list decoded at once
LONGEST = 1 << 30  # characters of one value
SPACE = " \t\r\n"


class Number(str):
    """A number as it is written; never converted, since other columns may hold any."""

    __slots__ = ()


DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number)


class JsonRows(TableFile):
    """A JSON or JSON Lines file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._buffer = open_bytes(path)
        check_text(path, self._buffer)
        self.names = list(next(self._objects(), (0, {}))[1])

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return record_batches(self.path, columns, self._rows(columns))

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        seen: dict[str, None] = {}
        lacking = dict.fromkeys(columns, 0)
        count = 0
        for line, value in self._objects():
            count += 1
            seen.update(dict.fromkeys(value))
            for column in columns:
                lacking[column] += column not in value
            row = [value.get(column) for column in columns]
            if not all(each is None or type(each) is str for each in row):
                raise self._not_text(line, columns, value)
            yield line, row
        for column, number in lacking.items():
            if number == count:
                raise missing_column(self.path, column, list(seen))
            if number:
                self.notes.append(f"{self.path}: {number} of {count} rows have no {column!r} and are empty documents.")

    def _not_text(self, line: int, columns: Sequence[str], value: dict[str, Any]) -> InputError:
        column = next(c for c in columns if value.get(c) is not None and type(value[c]) is not str)
        texts = [name for name, each in value.items() if type(each) is str]
        return not_text(f"{self.path}, line {line},", column, _described(value[column]), texts)

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, value in _values(self.path, self._buffer):
            if not isinstance(value, dict):
                raise InputError(
                    f"{self.path}, line {line} holds {_described(value)}, not an object. "
                    'Write lines such as {"text": "..."}.'
                )
            yield line, value


def _described(value: Any) -> str:
    if isinstance(value, Number):
        return f"a number ({value[:20]})"
    if isinstance(value, bool):
        return f"a truth value ({str(value).lower()})"
    return {str: "a string", list: "a list", dict: "an object", type(None): "null"}[type(value)]


def _values(path: Path, buffer: Buffer) -> Iterator[tuple[int, Any]]:
    """The values of a file, each with the line it begins on."""
    stream = _Stream(path, buffer)
    if stream.peek() == "[" or not _is_complete(next(_lines(buffer), (1, ""))[1]):
        yield from stream.values()
        return
    for number, line in _lines(buffer):
        try:
            yield number, DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, number, error) from None


def _lines(buffer: Buffer) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in lines_of(buffer) if line.strip(SPACE))


def _is_complete(line: str) -> bool:
    """Whether a line is a value by itself."""
    try:
        DECODER.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


class _Stream:
    """Values in a list, or one after the other, decoded from a part of the file at a time."""

    def __init__(self, path: Path, buffer: Buffer) -> None:
        self._path, self._buffer = path, buffer
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._offset = len(BOM) if buffer[: len(BOM)] == BOM else 0
        self._text, self._at, self._line = "", 0, 1

    def values(self) -> Iterator[tuple[int, Any]]:
        if self.peek() != "[":
            while self.peek():
                yield self._line, self._value()
            return
        self._skip(1)
        mark = self.peek()
        while mark != "]":
            yield self._line, self._value()
            mark = self.peek()
            if mark == ",":
                self._skip(1)
                if self.peek() == "]":
                    raise self._wrong("a value expected after ','")
            elif mark != "]":
                raise self._wrong("',' or ']' expected after a value of the list")
        self._skip(1)
        if self.peek():
            raise self._wrong("something follows the list")

    def _more(self) -> bool:
        """Take in as much again as there is; False at the end of the file."""
        size = max(CHUNK, len(self._text) - self._at)
        piece = self._buffer[self._offset : self._offset + size]
        self._offset += len(piece)
        self._text = self._text[self._at :] + self._decode(piece)
        self._at = 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            rest = self._text[self._at : self._at + 256]
            self._skip(len(rest) - len(rest.lstrip(SPACE)))
            if rest.strip(SPACE):
                return self._text[self._at]
            if not rest and not self._more():
                return ""

    def _skip(self, count: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _value(self) -> Any:
        while True:
            start = self._at
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise _not_json(self._path, self._line, error) from None
            except json.JSONDecodeError as error:
                if len(self._text) - self._at < LONGEST and self._more():  # it may only have been cut off
                    continue
                line = self._line + error.doc.count("\n", start, error.pos)
                raise _not_json(self._path, line, error) from None
            self._skip(end - self._at)
            return value

    def _wrong(self, cause: str) -> InputError:
        return _not_json(self._path, self._line, json.JSONDecodeError(cause, "", 0))


def _not_json(path: Path, line: int, error: ValueError | RecursionError) -> InputError:
    cause = "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        cause = error.msg.removesuffix(" starting at")
    return InputError(f"{path}, line {line} is not JSON: {cause}. Write one object a line, or a list of objects.")
