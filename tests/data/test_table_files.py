"""Tables: the text of the column asked for, whatever the other columns, parts and types are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bd3cli.data import json_rows, load_split, resolve_documents, tabular
from bd3cli.data.json_rows import JsonRows
from bd3cli.data.saved import saved_files
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig

TEXTS = [f"row {n} with some more words" for n in range(60)]


def as_train(path: object, **options: Any) -> list[str]:
    return list(resolve_documents(DataConfig(train=str(path), **options), "train"))


def documents(name: object, split: Any) -> list[str]:
    return list(resolve_documents(DataConfig(name=str(name)), split))


def write_jsonl(path: Path, others: list[dict[str, Any]], texts: list[str] = TEXTS) -> Path:
    """Rows of text, each with the fields `others` has for it."""
    path.write_text(
        "".join(json.dumps({"text": text} | other) + "\n" for text, other in zip(texts, others, strict=True))
    )
    return path


LATE = range(len(TEXTS))
OTHERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "column that comes late": lambda n: {"url": "http://x"} if n > 50 else {},
    "column that goes": lambda n: {"url": "http://x"} if n < 5 else {},
    "null, then text": lambda n: {"url": None if n < 50 else "http://x"},
    "integer, then fraction": lambda n: {"score": 1 if n < 50 else 1.5},
    "number, then text": lambda n: {"score": 1 if n < 50 else "n/a"},
    "text, then list": lambda n: {"tags": "a" if n < 50 else ["a", {"b": None}]},
    "date, then text": lambda n: {"date": "2020-01-02" if n < 50 else "unknown"},
    "integer beyond any type": lambda n: {"id": 10 ** (30 if n > 50 else 1)},
    "not a number": lambda n: {"score": float("nan") if n > 50 else 1},
    "lone surrogate": lambda n: {"note": "\ud83d"},
    "names that are odd": lambda n: {"": n, "a.b": n, "a+b": n, "日本": n},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_columns_may_hold_anything(tmp_path: Path, kind: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [OTHERS[kind](n) for n in LATE])
    assert as_train(path) == TEXTS
    with path.open() as file:
        rows = [json.loads(line) for line in file]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
    assert as_train(tmp_path / "a.json") == TEXTS


@pytest.mark.parametrize(
    "kind", ["column that comes late", "null, then text", "integer, then fraction", "number, then text"]
)
def test_other_columns_may_change_far_into_a_file(tmp_path: Path, kind: str) -> None:
    # Readers that infer types do so from the first 10 or 16 MiB.
    texts = [f"row {n} " + "the quick brown fox " * 15_000 for n in LATE]
    path = write_jsonl(tmp_path / "a.jsonl", [OTHERS[kind](n) for n in LATE], texts)
    assert path.stat().st_size > 1 << 24
    assert as_train(path) == texts


def test_an_integer_too_long_for_python_in_another_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "words", "n": ' + "1" * 5000 + "}\n")
    assert as_train(tmp_path / "a.jsonl") == ["words"]


def test_files_of_a_directory_may_differ_in_other_columns(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [{"score": 1}] * 30, TEXTS[:30])
    write_jsonl(folder / "b.jsonl", [{"lang": "en"}] * 30, TEXTS[30:])
    assert as_train(folder) == TEXTS


def test_a_part_without_the_column_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [{}] * 60)
    (folder / "b.jsonl").write_text('{"prose": "words", "id": 1}\n')
    with pytest.raises(InputError, match=r"b\.jsonl has no column 'text'.*prose, id"):
        as_train(folder)


def test_rows_that_lack_the_column_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n{"text": "ab", "id": 2}\n{"text": null}\n')
    found = resolve_documents(DataConfig(train=str(path)), "train")
    assert list(found) == ["", "ab", ""]
    (note,) = found.description["notes"]
    assert "1 of 3 rows have no 'text'" in note
    assert [record.getMessage() for record in caplog.records] == [f"bd3cli: {note}"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7, r"a number \(7\)"),
        (-1.5, r"a number \(-1\.5\)"),
        (True, r"a truth value \(true\)"),
        (["a"], "a list"),
        ({"a": 1}, "an object"),
    ],
)
def test_a_value_that_is_not_text_is_named_with_its_line(tmp_path: Path, value: Any, told: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"prose": "x"} | ({"text": value} if n == 41 else {}) for n in LATE])
    with pytest.raises(InputError, match=rf"'text' of .*a\.jsonl, line 42, holds {told}, not text.*: prose"):
        as_train(path)


@pytest.mark.parametrize("date", ["2020-01-02", "2020-01-02T10:00:00Z", "01/02/2020"])
def test_dates_and_numerals_stay_as_they_are_written(tmp_path: Path, date: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"date": date, "year": "0123"}] * 60)
    assert as_train(path, column="date+text") == [f"{date} {text}" for text in TEXTS]
    assert as_train(path, column="year") == ["0123"] * 60


@pytest.mark.parametrize(("name", "line"), [("a.jsonl", 42), ("a.json", 2 + 3 * 41)])
def test_a_lone_surrogate_is_named_with_its_line(tmp_path: Path, name: str, line: int) -> None:
    rows = [{"id": 0, "text": text + (" \ud83d" if n == 41 else " \U0001f600")} for n, text in enumerate(TEXTS)]
    (tmp_path / name).write_text(
        json.dumps(rows, indent=0).replace("},\n{", "},{")
        if name == "a.json"
        else "".join(json.dumps(row) + "\n" for row in rows)
    )
    with pytest.raises(InputError, match=rf"{name}, line {line}: 'text' has half of a surrogate pair, '\\ud83d'"):
        as_train(tmp_path / name)


def test_a_surrogate_in_a_text_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xed\xa0\xbd three\n")
    with pytest.raises(InputError, match=r"byte 0xed at offset 8, line 2 "):
        as_train(tmp_path / "a.txt")


ODD_NAMES = ["a::b.jsonl", "zip::c.jsonl", "a b [1]*?.jsonl", "-x.jsonl", "日本.jsonl", "a#b%20.jsonl", "{a,b}.jsonl"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_files_mean_nothing_but_themselves(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / name, [{}] * 60)
    assert as_train(f"./{name}") == TEXTS
    assert set(documents(f"./{name}", "train")) < set(TEXTS)


@settings(deadline=None)
@given(rows=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=8), layout=st.integers(0, 5))
def test_json_in_every_layout(tmp_path_factory: pytest.TempPathFactory, rows: list[str], layout: int) -> None:
    objects = [{"n": [n, {"x": None}], "text": text} for n, text in enumerate(rows)]
    ends = ["\n", "\r\n", "\n\n \n", "\r"]
    content = [
        *(end.join(json.dumps(o, ensure_ascii=end == "\n") for o in objects) for end in ends[:3]),
        json.dumps(objects, indent=3, ensure_ascii=False),
        "\n".join(json.dumps(o, indent=1) for o in objects),
        " " + json.dumps(objects) + "\n\n",
    ][layout]
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" * (layout % 2) + content.encode())
    file = JsonRows(path)
    assert file.names == (["n", "text"] if rows else [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK", 5)
        found = [text for batch in file.batches(["text"]) for text in batch.column(0).to_pylist()] if rows else []
    assert found == rows


WRONG: dict[str, tuple[str, str]] = {
    "a comma too many": ('[{"text": "a"},\n{"text": "b"},\n]', "line 3 is not JSON: a value expected after ','"),
    "a comma too few": ('[{"text": "a"}\n{"text": "b"}]', "line 2 is not JSON: ',' or ']' expected"),
    "a list that is not closed": ('[{"text": "a"},\n{"text": "b"}\n', "line 3 is not JSON: ',' or ']' expected"),
    "something after a list": ('[{"text": "a"}]\n{"text": "b"}', "line 2 is not JSON: something follows"),
    "a torn first line": ('{"text": "a"\n{"text": "b"}', "line 2 is not JSON"),
    "a torn line of many": ('{"text": "a"}\n{"text": "b\n{"text": "c"}', "line 2 is not JSON"),
    "no object": ('[1, "a"]', r"line 1 holds a number \(1\), not an object"),
    "a nest": ('{"text": "a"}\n{"x": ' + "[" * 100_000, "line 2 is not JSON: it is nested too deeply"),
    "a nest at the beginning": ("[" * 100_000, "line 1 is not JSON: it is nested too deeply"),
    "an empty list": ("[]", "holds no text"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_json_that_is_wrong(tmp_path: Path, kind: str) -> None:
    content, cause = WRONG[kind]
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=cause) as caught:
        as_train(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


FORMS: dict[str, Callable[[list[Any]], pa.Array]] = {
    "string": lambda texts: pa.array(texts, pa.string()),
    "large_string": lambda texts: pa.array(texts, pa.large_string()),
    "string_view": lambda texts: pa.array(texts, pa.string_view()),
    "dictionary": lambda texts: pa.array(texts, pa.string()).dictionary_encode(),
    "large dictionary": lambda texts: pa.array(texts, pa.large_string()).dictionary_encode(),
}


def write_table(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("extension", ["parquet", "feather", "arrow"])
def test_text_in_every_form(tmp_path: Path, form: str, extension: str) -> None:
    table = pa.table({"n": range(61), "text": FORMS[form]([*TEXTS, None])})
    path = write_table(tmp_path / f"a.{extension}", table)
    assert as_train(path) == [*TEXTS, ""]
    assert resolve_documents(DataConfig(train=str(path)), "train")[-2] == TEXTS[-1]
    (tmp_path / f"b.{extension}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert as_train(tmp_path / f"b.{extension}.gz") == [*TEXTS, ""]


NO_ROWS: dict[str, dict[str, pa.Array]] = {
    "the same columns": {"text": pa.array([], pa.string()), "x": pa.array([], pa.int64())},
    "other columns": {"prose": pa.array([], pa.string())},
    "another type": {"text": pa.array([], pa.null())},
    "no column": {},
}


@pytest.mark.parametrize("kind", NO_ROWS)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("extension", ["parquet", "arrow"])
def test_parts_without_rows(tmp_path: Path, kind: str, place: int, extension: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = [pa.table({"text": TEXTS[:30], "x": [1] * 30}), pa.table({"x": ["a"] * 30, "text": TEXTS[30:]})]
    parts.insert(place, pa.table(NO_ROWS[kind]))
    for number, part in enumerate(parts):
        write_table(folder / f"part-{number}.{extension}", part)
    assert as_train(folder) == TEXTS


def test_tables_without_a_row_at_all(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", pa.table({"text": pa.array([], pa.string())}))
    with pytest.raises(InputError, match=r"a\.parquet holds no text, not one row"):
        as_train(path)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pa.array([1, 2]), "int64"),
        (pa.array([b"a", b"b"]), "binary"),
        (pa.array([["a"], []]), r"list<.*>"),
        (pa.array([1, 2], pa.timestamp("s")), r"timestamp\[m?s\]"),
    ],
)
def test_columns_that_are_not_text(tmp_path: Path, values: pa.Array, told: str) -> None:
    path = write_table(tmp_path / "a.parquet", pa.table({"text": values, "prose": ["a", "b"]}))
    with pytest.raises(InputError, match=rf"'text' of .*a\.parquet holds {told}, not text.*: prose"):
        as_train(path)


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    with pytest.raises(InputError, match="2 columns called 'text'"):
        as_train(write_table(tmp_path / "a.parquet", table))


def test_bytes_that_are_not_utf_8_in_a_string_column(tmp_path: Path) -> None:
    texts = [b"ab", b"c\xffd", b"ef"]
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 5, 7)))
    array = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"".join(texts)))
    for extension in ("parquet", "arrow"):
        path = write_table(tmp_path / f"a.{extension}", pa.table({"text": array}))
        with pytest.raises(InputError, match=rf"a\.{extension}, row 2, is not UTF-8 text in 'text'"):
            as_train(path)


def test_bytes_that_are_not_utf_8_in_a_table_of_the_hub() -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 5)))
    table = pa.table({"text": pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"abc\xffd"))})
    rows = tabular.text_rows(table, None, None, "Data set 'org/name'")
    assert rows[0] == "ab"
    for read in (lambda: list(rows), lambda: rows[1], lambda: list(rows.take(np.array([1])))):
        with pytest.raises(InputError, match=r"'org/name' has a row that is not UTF-8 text .* begins 'c�d'"):
            read()


def test_a_table_whose_values_point_outside_it(tmp_path: Path) -> None:
    # To read such a value ends the process: it is looked for first.
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 1 << 30, 7)))
    array = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"abcdefg"))
    path = write_table(tmp_path / "a.arrow", pa.table({"text": array}))
    with pytest.raises(InputError, match=r"a\.arrow cannot be read as arrow.*[Oo]ffset"):
        as_train(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1 is not enough PAR1", b"ARROW1 nor this", b"\xff" * 40])
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}.*(cannot be read as|holds no text)") as caught:
        as_train(tmp_path / name)
    assert "\n" not in str(caught.value)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("extension", [".gz", ".zst", ".GZ", ".Zst"])
def test_compressed_files_of_several_members(tmp_path: Path, extension: str) -> None:
    compress = COMPRESSORS[extension.lower()]
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS]
    members = [compress(b"".join(lines[:20])), compress(b""), compress(b"".join(lines[20:]))]
    path = tmp_path / f"a.jsonl{extension}"
    path.write_bytes(b"".join(members))
    assert as_train(path) == TEXTS
    text = tmp_path / f"a.txt{extension}"
    text.write_bytes(compress("\n".join(TEXTS).encode()))
    assert as_train(text, document="line") == TEXTS


@pytest.mark.parametrize("extension", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt", "parquet"])
@pytest.mark.parametrize("harm", ["cut", "bit", "tail", "plain", "empty"])
def test_compressed_files_that_are_damaged(tmp_path: Path, extension: str, kind: str, harm: str) -> None:
    whole = COMPRESSORS[extension](b'{"text": "some words"}\n' * 5000)
    if (
        extension == ".zst" and harm == "bit"
    ):  # a frame of one uncompressed block, whose checksum is not that of "words"
        whole = b"\x28\xb5\x2f\xfd\x24\x05" + (5 << 3 | 1).to_bytes(3, "little") + b"words" + bytes(4)
    middle = len(whole) // 2
    content = {
        "cut": whole[:-6],
        "bit": whole[:middle] + bytes([whole[middle] ^ 0x55]) + whole[middle + 1 :],
        "tail": whole + b"more",
        "plain": b"some words in no archive",
        "empty": b"",
    }[harm]
    path = tmp_path / f"a.{kind}{extension}"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"not a complete (gzip|zstd) file|holds no text|cannot be read as parquet"
    ) as caught:
        as_train(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"words"))
    monkeypatch.setattr("bd3cli.data.streams.shutil.copyfileobj", full)
    with pytest.raises(InputError, match=r"a\.txt\.gz has no room.*TMPDIR"):
        as_train(tmp_path / "a.txt.gz")


def test_many_small_files_do_not_need_a_descriptor_each(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03}.txt").write_text(f"file {number}\nüber\n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
    try:
        assert as_train(folder, document="line") == [t for n in range(300) for t in (f"file {n}", "über")]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def save(folder: Path, texts: list[str] | dict[str, list[str]], **options: Any) -> Path:
    def table(rows: list[str]) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"id": list(range(len(rows))), "text": rows})

    parts = table(texts) if isinstance(texts, list) else datasets.DatasetDict({n: table(t) for n, t in texts.items()})
    parts.save_to_disk(str(folder), **options)
    return folder


def test_a_saved_data_set(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", TEXTS, num_shards=3).rename(tmp_path / "a::saved")
    parts = {split: documents(folder, split) for split in ("train", "validation", "test")}
    assert sorted(text for part in parts.values() for text in part) == sorted(TEXTS)
    assert as_train(folder) == TEXTS
    described = resolve_documents(DataConfig(train=str(folder)), "train").description
    assert [Path(file["path"]).suffix for file in described["files"]] == [".arrow"] * 3


def test_a_saved_data_set_in_another_order(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": TEXTS}).select([5, 3, 9]).save_to_disk(str(tmp_path / "saved"))
    assert as_train(tmp_path / "saved") == [TEXTS[5], TEXTS[3], TEXTS[9]]


def test_saved_splits_are_the_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save(tmp_path / "saved", {"train": TEXTS[:40], "dev": TEXTS[40:50], "test": TEXTS[50:], "extra": ["x"]})
    assert documents(folder, "train") == TEXTS[:40]
    assert documents(folder, "validation") == TEXTS[40:50]
    assert documents(folder, "test") == as_test(folder) == TEXTS[50:]
    assert "'extra'" in caplog.records[0].getMessage()


def as_test(path: Path) -> list[str]:
    return list(resolve_documents(DataConfig(test=str(path)), "test"))


def test_a_saved_train_split_alone_is_shared_out(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", {"train": TEXTS})
    parts = [documents(folder, split) for split in ("train", "validation", "test")]
    assert sorted(text for part in parts for text in part) == sorted(TEXTS)
    assert all(parts)


def test_saved_data_sets_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has the splits a, b, of which none"):
        documents(save(tmp_path / "named", {"a": TEXTS, "b": TEXTS}), "train")
    with pytest.raises(InputError, match="two splits that are taken for validation"):
        documents(save(tmp_path / "twice", {"train": TEXTS, "dev": TEXTS, "val": TEXTS}), "train")
    lacking = save(tmp_path / "lacking", {"train": TEXTS, "test": TEXTS})
    with pytest.raises(InputError, match="has files for train, test and none for validation"):
        documents(lacking, "validation")
    with pytest.raises(InputError, match="not one file"):
        documents(save(tmp_path / "empty", []), "train")
    damaged = save(tmp_path / "damaged", TEXTS)
    (damaged / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"state\.json is not what `datasets` writes"):
        documents(damaged, "train")
    lost = save(tmp_path / "lost", TEXTS, num_shards=2)
    next(lost.glob("*.arrow")).unlink()
    with pytest.raises(InputError, match=r"\.arrow cannot be read: No such file"):
        documents(lost, "train")


def test_files_called_as_those_of_a_saved_data_set(tmp_path: Path) -> None:
    for name in ("state.json", "dataset_info.json", "dataset_dict.json"):
        (tmp_path / name).write_text("about it")
    assert saved_files(tmp_path) is None


def test_a_damaged_conversion_is_made_again(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{}] * 60)
    assert as_train(path) == TEXTS
    (converted,) = (cache / "arrow").glob("*/text.arrow")
    converted.write_bytes(converted.read_bytes()[:100])
    assert as_train(path) == as_train(path) == TEXTS
    (record,) = caplog.records
    assert "is damaged" in record.getMessage()


def test_a_full_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = write_jsonl(tmp_path / "a.jsonl", [{}] * 60)
    monkeypatch.setattr("bd3cli.data.tabular.os.replace", full)
    with pytest.raises(InputError, match=r"a\.jsonl could not be written.*No space left on device.*BD3CLI_CACHE"):
        as_train(path)
    assert [entry.suffix for entry in (cache / "arrow").iterdir()] == [".lock"]


def test_another_edition_of_the_readers_is_another_cache_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 8: what another release made of the same file is not taken for what this one makes of it."""
    config = DataConfig(train=str(write_jsonl(tmp_path / "a.jsonl", [{}] * 60)))
    load_split(config, "train", 16)
    built: list[str] = []
    convert = tabular._convert
    monkeypatch.setattr(tabular, "_convert", lambda *args: (built.append("table"), convert(*args))[1])
    load_split(config, "train", 17)
    assert built == []
    monkeypatch.setattr(tabular, "READERS", 99)
    load_split(config, "train", 16)
    assert built == ["table"]
