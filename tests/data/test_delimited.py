"""CSV and TSV: every dialect gives its rows, and none is merged or lost without a word."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bd3cli.data import resolve_documents
from bd3cli.data.delimited import DelimitedRows
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig

VALUE = st.text(st.sampled_from("ab ,;\t\"'\n\r\\é日|"), max_size=8)


def read(path: Path, content: str | bytes) -> tuple[list[str], list[str]]:
    """The texts of a file, and the notes on it."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = resolve_documents(DataConfig(train=str(path)), "train")
    return list(found), list(found.description.get("notes", []))


@settings(deadline=None)
@given(
    texts=st.lists(VALUE, min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from([",", ";", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_csv_writes_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], end: str, mark: str, quoting: Any
) -> None:
    # `csv` does not quote a carriage return by itself when lines end in \n, as it should.
    assume(quoting == csv.QUOTE_ALL or not any("\r" in text for text in texts))
    # Lines of one value may each look like a row by themselves; names between quote marks say that they are not.
    assume(mark != "\t" or quoting != csv.QUOTE_MINIMAL or not any("\n" in text and "\t" in text for text in texts))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=mark, lineterminator=end, quoting=quoting)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(texts))
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(stream.getvalue().encode())
    file = DelimitedRows(path)
    assert [text for batch in file.batches(["text"]) for text in batch.column(0).to_pylist()] == texts


@settings(deadline=None)
@given(texts=st.lists(st.text(st.sampled_from("ab ,\"'é日|"), max_size=8), min_size=1, max_size=6))
def test_plain_tsv_keeps_its_rows(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Quote marks in values that were never quoted; only those around a whole value may be taken for quoting."""
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    path.write_text("id\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(texts)))
    file = DelimitedRows(path)
    found = [text for batch in file.batches(["text"]) for text in batch.column(0).to_pylist()]
    assert len(found) == len(texts)
    if file.notes:
        assert found == texts
    else:
        assert found == ["".join(next(csv.reader([text], strict=True, delimiter="\t"))) for text in texts]


def test_stray_quotes_in_tsv_are_characters(tmp_path: Path) -> None:
    lines = ['1\t"Crocodile" Dundee', "2\tplain", '3\t5" pipe', '4\tends in "quotes"', '5\t"opens only']
    texts, notes = read(tmp_path / "a.tsv", "id\ttext\n" + "\n".join(lines) + "\n")
    assert texts == [line.split("\t")[1] for line in lines]
    assert "quote marks as characters" in notes[0]
    assert "line 2" in notes[0]


def test_tsv_quotes_that_would_merge_rows_are_characters(tmp_path: Path) -> None:
    # As quoted values, two records of two values each fit as well.
    texts, notes = read(tmp_path / "a.tsv", 'text\tid\n"opens\t1\ncloses"\t2\nplain\t3\n')
    assert texts == ['"opens', 'closes"', "plain"]
    assert "span lines" in notes[0]


def test_quoted_tsv(tmp_path: Path) -> None:
    texts, notes = read(tmp_path / "a.tsv", '"id"\t"text"\n"1"\t"a ""b"""\n"2"\t"c\td"\n')
    assert (texts, notes) == (['a "b"', "c\td"], [])
    texts, notes = read(tmp_path / "b.tsv", 'text\n"a\nb"\nc\n')
    assert texts == ["a\nb", "c"]
    assert "1 rows have a quoted value that spans lines, the first in line 2" in notes[0]


def test_values_that_span_lines_are_told(tmp_path: Path) -> None:
    # Line 3 may be meant so, or have lost a quote mark: nobody can tell, so it is said.
    texts, notes = read(tmp_path / "a.csv", 'id,text\n1,a\n2,"5 pipe\n3,12"\n4,b\n')
    assert texts == ["a", "5 pipe\n3,12", "b"]
    assert "1 rows have a quoted value that spans lines, the first in line 3" in notes[0]


WRONG: dict[str, tuple[str, str]] = {
    "an opening quote alone": (
        'id,text\n1,a\n2,"never closed\n3,b\n',
        "line 3 opens a quote mark that is never closed",
    ),
    "a quote that closes elsewhere": ('id,text\n1,"a\n2,b\n3,"c"\n', "line 2 has a value between quote.*in line 4"),
    "text after a closing quote": ('text,id\n"Crocodile" Dundee,1\n', "line 2 has a value between quote marks"),
    "too many values": ("id,text\n1,a\n2,b, c\n", "line 3 has 3 values and the first line 2"),
    "too few values": ("id,text\n1,a\nb\n3,c\n", "line 3 has 1 values and the first line 2"),
    "a row broken in two": ("id,text\n1,a\n2,b and\nmore\n3,c\n", "line 4 has 1 values"),
    "a carriage return": ("id,text\n1,a\rb\n", "line 2 has a carriage return"),
    "carriage returns alone": ("id,text\r1,a\r2,b\r", "line 1 has a carriage return"),
    "values but no name": ("id,\n1,a\n", "does not name its columns"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, kind: str) -> None:
    content, cause = WRONG[kind]
    with pytest.raises(InputError, match=cause) as caught:
        read(tmp_path / "a.csv", content)
    assert "\n" not in str(caught.value)


def test_tsv_that_fits_neither_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as tsv: line 3 has 3 values"):
        read(tmp_path / "a.tsv", 'id\ttext\n1\t"a" b\n2\tc\td\n')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbfid,text\r\n1,one\r\n\r\n2,two\r\n"),
        ("a.csv", b"\n\nid;text;x\n1;one;\n2;two;3\n"),
        ("a.csv", b"id\ttext\n1\tone\n2\ttwo"),
        ("a.csv", b'"text"\n"one"\n""\n"two"\n'),
        ("a.csv", b" id , text \n1,one\n2,two\n"),
        ("a.csv", b"text,id\none,1\n  \ntwo,2\n"),
        ("a.tsv", b"\xef\xbb\xbfid\ttext\r\n1\tone\r\n2\ttwo\r\n"),
        ("a.tsv", b"text\none\n\ntwo\n"),
        ("a.TSV", b"id\ttext\n1\tone\n2\ttwo\n"),
        ("a.tsv", b'i"d\ttext\n1\tone\n2\ttwo\n'),
    ],
)
def test_marks_breaks_and_blanks(tmp_path: Path, name: str, content: bytes) -> None:
    texts, notes = read(tmp_path / name, content)
    assert [text for text in texts if text] == ["one", "two"]
    assert notes == []


def test_every_value_is_the_text_that_is_written(tmp_path: Path) -> None:
    values = ["NA", "null", "nan", "007", "1e5", "2020-01-02", "True", "", " padded ", "\\N", "a\\,b'", "x" * 200_000]
    texts, _ = read(tmp_path / "a.csv", "id,text\n" + "".join(f'{n},"{value}"\n' for n, value in enumerate(values)))
    assert texts == values


def test_header_only_parts(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.csv").write_text("other\n")
    (folder / "b.csv").write_text("text\none\n")
    assert list(resolve_documents(DataConfig(train=str(folder)), "train")) == ["one"]
    with pytest.raises(InputError, match="holds no text, not one row"):
        read(tmp_path / "c.csv", "text\n")


def test_columns_of_parts_may_stand_in_another_order(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.csv").write_text("id,text\n1,one\n")
    (folder / "b.csv").write_text("text,lang,id\ntwo,en,2\n")
    assert list(resolve_documents(DataConfig(train=str(folder)), "train")) == ["one", "two"]
