"""Documents from files of every kind, and one clear error for every way they can be wrong."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bd3cli.data import load_split, load_tokenizer, resolve_documents
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig

Corpus = Callable[..., list[str]]


def documents(name: object, split: Any = "train", **options: Any) -> list[str]:
    return list(resolve_documents(DataConfig(name=str(name), **options), split))


def as_train(path: object, **options: Any) -> list[str]:
    return list(resolve_documents(DataConfig(train=str(path), **options), "train"))


def write_rows(path: Path, texts: list[str]) -> Path:
    rows = [{"n": n, "text": text} for n, text in enumerate(texts)]
    kind = path.name.split(".")[1]
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif kind == "json":
            json.dump(rows, file, indent=1)
        else:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            writer.writerow(["n", "text"])
            writer.writerows([row["n"], row["text"]] for row in rows)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl",
        "a.jsonl.gz",
        "a.json",
        "a.csv",
        "a.tsv",
        "a.csv.gz",
        "a.parquet",
        "a.x[1]*.jsonl",
        "b c?.csv",
    ],
)
def test_every_table_gives_its_rows(tmp_path: Path, corpus: Corpus, name: str) -> None:
    texts = [*corpus(30), "NA", "null", "12", '"quoted", with\nlines', "1999-01-01", "日本"]
    path = tmp_path / name
    write_rows(tmp_path / ("w." + name.split(".", 1)[1].split(".")[-1] if "[" in name else name), texts)
    if "[" in name:
        (tmp_path / "w.jsonl").rename(path)
    assert as_train(path) == texts
    if not name.endswith(".gz"):
        assert resolve_documents(DataConfig(train=str(path)), "train")[33] == texts[33]


def test_empty_values_are_not_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ab"}\n{"text": null}\n{"text": ""}\n{"text": "cd"}\n')
    split = load_split(DataConfig(train=str(path)), "train", 4)
    assert split.documents == 2
    assert split.description["bytes"] == 4


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("auto", ["one\ntwo\r\n\r\n \t\nthree\n\n\nfour\n"]),
        ("file", ["one\ntwo\r\n\r\n \t\nthree\n\n\nfour\n"]),
        ("paragraph", ["one\ntwo", "three", "four\n"]),
        ("line", ["one", "two", "three", "four"]),
    ],
)
def test_what_a_document_is(tmp_path: Path, unit: Any, expected: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\r\n\r\n \t\nthree\n\n\nfour\n")
    assert as_train(path, document=unit) == expected
    with gzip.open(tmp_path / "b.txt.gz", "wb") as file:
        file.write(path.read_bytes())
    assert as_train(tmp_path / "b.txt.gz", document=unit) == expected


def test_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfword")
    assert as_train(tmp_path / "a.txt") == ["word"]
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,n\r\nword,1\r\n")
    assert as_train(tmp_path / "a.csv") == ["word"]


def test_file_named_outright_is_text_whatever_its_extension(tmp_path: Path) -> None:
    (tmp_path / "corpus.en").write_text("words")
    assert as_train(tmp_path / "corpus.en") == ["words"]


def test_directory_of_texts_is_read_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a/2.md", "a/1.txt", "c.bin", ".hidden.txt", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert as_train(tmp_path) == ["a/1.txt", "a/2.md", "b.txt"]


@pytest.mark.parametrize("valid", ["valid", "validation", "val", "dev", "Valid"])
def test_directory_of_splits(tmp_path: Path, valid: str) -> None:
    for name in ("train", valid, "test"):
        (tmp_path / f"{name}.txt").write_text(f"for {name}")
    (tmp_path / "README").write_text("about it")
    assert documents(tmp_path, "train") == ["for train"]
    assert documents(tmp_path, "validation") == [f"for {valid}"]
    assert documents(tmp_path, "test") == ["for test"]
    # The same directory named for a split gives that split, not everything in it.
    assert as_train(tmp_path) == ["for train"]


def test_directory_with_directories_of_splits(tmp_path: Path) -> None:
    for name in ("train/b.txt", "train/a.txt", "test/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents(tmp_path, "train") == ["train/a.txt", "train/b.txt"]
    with pytest.raises(InputError, match=r"has files for train, test and none for validation.*data\.validation"):
        documents(tmp_path, "validation")


def written(folder: Path, *names: str) -> Path:
    """A directory of files that hold their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name + "\n")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("corpus_train.txt", "corpus_dev.txt", "corpus_test.txt"),
        ("data/train-00000-of-00002.txt", "data/validation-00000-of-00001.txt", "data/test-00000-of-00001.txt"),
        ("ptb.train", "ptb.valid", "ptb.test"),
        ("train", "valid", "test"),
        ("Train/a.txt", "val/a.txt", "TEST/a.txt"),
    ],
    ids="|".join,
)
def test_official_splits_are_kept_apart(tmp_path: Path, names: tuple[str, str, str]) -> None:
    about = ("README.md", "LICENSE", ".gitattributes", "dataset_info.json", "state.json", "CITATION.bib")
    written(tmp_path, *names, *about)
    for split, name in zip(("train", "validation", "test"), names, strict=True):
        assert [text.strip() for text in documents(tmp_path, split)] == [name]


def test_names_that_do_not_say_clearly_are_refused_and_can_be_ignored(tmp_path: Path) -> None:
    written(tmp_path, *(f"{n}.txt" for n in range(50)), "test.txt", "trainval.md")
    with pytest.raises(
        InputError,
        match=r"test: test\.txt; .*unclear which: trainval\.md; without one: 0\.txt, 1\.txt.*and 45 more.*"
        r"data\.train.*data\.split_names=ignore",
    ):
        documents(tmp_path)
    parts = [documents(tmp_path, split, split_names="ignore") for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 52


def test_ordinary_documents_are_not_taken_for_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "contest.txt", "latest.txt", "how to test a hypothesis.md", "software_development.txt")
    assert len(as_train(tmp_path)) == 4
    assert "a word for a split stands inside how to test a hypothesis.md, software_development.txt" in caplog.text


def test_a_split_that_is_not_there_names_the_way_out(tmp_path: Path) -> None:
    written(tmp_path, "turing test.txt", "training.txt")
    with pytest.raises(InputError, match=r"files for train, test and none for validation.*split_names=ignore"):
        documents(tmp_path, "validation")


def test_what_is_left_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "a.txt", "README-en.md", "LICENSE-MIT", *(f"{n}.doc" for n in range(7)), ".b.txt", "sub/c.pdf")
    assert as_train(tmp_path) == ["a.txt\n"]
    assert as_train(tmp_path) == ["a.txt\n"]
    told = (
        "2 about the data (LICENSE-MIT, README-en.md), 1 hidden (.b.txt), "
        "8 of unknown extension (0.doc, 1.doc, 2.doc, 3.doc, 4.doc and 3 more)"
    )
    assert [record.getMessage() for record in caplog.records] == [f"bd3cli: {tmp_path}: left out {told}."]
    assert resolve_documents(DataConfig(train=str(tmp_path)), "train").description["left_out"] == told


@pytest.mark.parametrize("name", ["README.md", "licence.txt", "vocab.json", "CHANGELOG.md", "SHA256SUMS.txt"])
def test_files_about_the_data_are_read_when_named_outright(tmp_path: Path, name: str) -> None:
    written(tmp_path, "a.txt", name)
    assert as_train(tmp_path) == ["a.txt\n"]
    if not name.endswith(".json"):
        assert as_train(tmp_path / name) == [name + "\n"]
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InputError, match=rf"holds no data file.*Left out: 1 about the data \({name}\)"):
        as_train(tmp_path)


def test_a_file_reached_twice_is_one_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "corpus/z/a.txt", "elsewhere/b.txt")
    folder = tmp_path / "corpus"
    (folder / "z" / "up").symlink_to(folder)
    (folder / "a_link.txt").symlink_to(folder / "z" / "a.txt")
    (folder / "linked").symlink_to(folder / "z")
    (folder / "hard.txt").hardlink_to(folder / "z" / "a.txt")
    (folder / "outside").symlink_to(tmp_path / "elsewhere")
    assert sorted(as_train(folder)) == ["corpus/z/a.txt\n", "elsewhere/b.txt\n"]
    assert "4 linking to what is here already (a_link.txt, linked, z/a.txt, z/up)" in caplog.text


@pytest.mark.parametrize("link", ["hardlink_to", "symlink_to"])
def test_one_file_with_the_names_of_two_splits(tmp_path: Path, link: str) -> None:
    written(tmp_path, "train.txt", "valid.txt")
    getattr(tmp_path / "test.txt", link)(tmp_path / "train.txt")
    with pytest.raises(InputError, match=r"are the same file, for train and test: splits must not overlap"):
        documents(tmp_path)
    (tmp_path / "test.txt").unlink()
    getattr(tmp_path / "train-01.txt", link)(tmp_path / "train.txt")
    getattr(tmp_path / "whole.txt", link)(tmp_path / "train.txt")
    assert documents(tmp_path) == ["train.txt\n"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "b.txt")
    assert as_train(tmp_path) == ["a.txt\n"]
    assert "1 not regular (b.txt)" in caplog.text


def test_the_same_files_for_two_splits(tmp_path: Path) -> None:
    written(tmp_path, "all/a.txt", "all/b.txt", "other/c.txt", "own/train.txt", "own/test.txt")
    inside, everything = str(tmp_path / "all" / "a.txt"), str(tmp_path / "all")
    (tmp_path / "hard.txt").hardlink_to(inside)
    (tmp_path / "soft").symlink_to(everything)
    wrong = [
        {"train": everything, "test": inside},
        {"train": inside, "validation": everything},
        {"train": everything, "validation": everything},
        {"train": everything, "test": str(tmp_path / "hard.txt")},
        {"train": inside, "test": str(tmp_path / "hard.txt")},
        {"train": str(tmp_path / "soft"), "test": inside},
        {"name": everything, "test": inside},
    ]
    for config in wrong:
        with pytest.raises(InputError, match=r"are the same file.*must not overlap"):
            resolve_documents(DataConfig(**config), "train")
    with pytest.raises(InputError, match=r"data\.train and the validation split of data\.name are the same file"):
        resolve_documents(DataConfig(name=everything, train=inside), "validation")
    own = str(tmp_path / "own")
    assert list(resolve_documents(DataConfig(train=own, test=own), "train")) == ["own/train.txt\n"]
    assert list(resolve_documents(DataConfig(name=inside, test=inside), "test")) == ["all/a.txt\n"]


def test_one_file_is_split_disjointly(tmp_path: Path, corpus: Corpus) -> None:
    path = write_rows(tmp_path / "a.jsonl", corpus(300))
    parts = [set(documents(path, split)) for split in ("train", "validation", "test")]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert set.union(*parts) == set(corpus(300))
    text = tmp_path / "a.txt"
    text.write_text("\n".join(corpus(300)))
    assert "".join("".join(documents(text, s)) for s in ("train", "validation", "test")) == text.read_text()
    assert resolve_documents(DataConfig(train=str(text)), "train").description["dataset"] == str(text)
    described = resolve_documents(DataConfig(name=str(text)), "validation").description
    assert "contiguous pieces" in described["split_policy"]
    assert described["dataset"] == str(text)


def test_subset_of_training_documents(tmp_path: Path, corpus: Corpus) -> None:
    path = write_rows(tmp_path / "a.jsonl", corpus(300))
    everything = documents(path)
    some = documents(path, max_documents=20)
    assert len(some) == 20
    assert set(some) < set(documents(path, max_documents=40)) < set(everything)
    assert some == [t for t in everything if t in set(some)]
    assert documents(path, max_documents=20, subset_seed=1) != some
    assert documents(path, "validation", max_documents=2) == documents(path, "validation")
    assert documents(path, max_documents=10_000) == everything
    with pytest.raises(InputError, match=r"max_documents is 0"):
        documents(path, max_documents=0)


def test_column_by_name_and_joined(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("title,body,a+b\nT,some body,x\n")
    assert as_train(path, column="body") == ["some body"]
    assert as_train(path, column="title+body") == ["T some body"]
    assert as_train(path, column="a+b") == ["x"]
    with pytest.raises(InputError, match=r"no column 'text'.*title, body.*data\.column"):
        as_train(path)
    with pytest.raises(InputError, match=r"no column 'boddy'. Did you mean 'body'"):
        as_train(path, column="boddy")


def test_column_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": 5, "prose": "five"}\n')
    with pytest.raises(InputError, match=r"line 1, holds a number \(5\), not text.*data.column: prose"):
        as_train(path)
    path.write_text('{"text": ["a", "b"]}\n')
    with pytest.raises(InputError, match="not text"):
        as_train(path)


# A gzip file with one byte changed inside its compressed data.
TORN = gzip.compress(b'{"text": "a"}\n' * 50, mtime=0)
TORN = TORN[:14] + bytes([TORN[14] ^ 0xFF]) + TORN[15:]

WRONG: dict[str, tuple[bytes, str]] = {
    "empty.txt": (b"", r"holds no text \(0 bytes\)"),
    "blank.txt": (b" \n\t\n", "holds no text"),
    "empty.jsonl": (b"", "holds no text"),
    "blank.csv": (b"\n \n", "holds no text"),
    "empty.txt.gz": (b"", "holds no text|not a complete gzip"),
    "nul.txt": (b"abc\0def", "NUL byte at offset 3"),
    "nul.csv": (b"text\na\0b\n", "NUL byte at offset 6"),
    "latin.txt": (b"caf\xe9 au lait", "byte 0xe9 at offset 3"),
    "wide.txt": ("café".encode("utf-16"), "is UTF-16 text"),
    "wide.jsonl": (b"\xfe\xff" + '{"text": "café"}'.encode("utf-16-be"), "is UTF-16 text"),
    "cut.txt": (b"caf\xc3", "byte 0xc3 at offset 3"),
    "latin.jsonl": (b'{"text": "caf\xe9"}\n', "byte 0xe9 at offset 13"),
    "bad.jsonl": (b'{"text": "a"}\n\n{"text": "b"\n', "line 3 is not JSON"),
    "words.jsonl": (b'{"text": "a"}\n"b"\n', "line 2 holds a string, not an object"),
    "bad.json": (b'[{"text": "a"}, {"text": ]', "cannot be read as json|not JSON"),
    "object.json": (b'{"data": [{"text": "a"}]}', "no column 'text'"),
    "bad.parquet": (b"PAR1 is not enough", "cannot be read as parquet"),
    "ragged.csv": (b"text,n\na,1\nb,2,3,4\n", "cannot be read as csv.*line 3"),
    "twice.csv": (b"text,text\na,b\n", "does not name its columns"),
    "bad.txt.gz": (b"not gzip", "not a complete gzip file"),
    "bad.jsonl.gz": (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
    "torn.jsonl.gz": (TORN, "not a complete gzip file"),
    "torn.csv.gz": (TORN, "not a complete gzip file"),
    "torn.txt.gz": (TORN, "not a complete gzip file"),
    "latin.csv.gz": (gzip.compress(b"text\ncaf\xe9\n"), "byte 0xe9 at offset 8"),
    "blank.csv.gz": (gzip.compress(b""), "holds no text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, cause = WRONG[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=cause) as caught:
        load_split(DataConfig(train=str(path)), "train", 8)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_offset_of_a_wrong_byte_far_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Chunks that end inside a character are no error; one that is cut off at the end of the file is.
    monkeypatch.setattr("bd3cli.data.streams.CHUNK", 7)
    good = "ü日本😀" * 20
    path = tmp_path / "a.txt"
    path.write_bytes(good.encode())
    assert as_train(path) == [good]
    path.write_bytes(good.encode() + b"\xff")
    with pytest.raises(InputError, match=f"0xff at offset {len(good.encode())}"):
        as_train(path)
    path.write_bytes(good.encode()[:-1])
    with pytest.raises(InputError, match=f"0xf0 at offset {len(good.encode()) - 4}"):
        as_train(path)


def test_missing_path(tmp_path: Path) -> None:
    for config in (
        DataConfig(name=str(tmp_path / "none")),
        DataConfig(name="./none"),
        DataConfig(name="none.txt"),
        DataConfig(train=str(tmp_path / "none")),
    ):
        with pytest.raises(InputError, match=r"no file or directory .*none"):
            load_split(config, "train", 8)


def test_path_that_cannot_be_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, **_: Any) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", deny)
    for config in (DataConfig(name="some/file"), DataConfig(train="file"), DataConfig(tokenizer="some/file")):
        with pytest.raises(InputError, match=r"file cannot be looked up: Permission denied"):
            load_split(config, "train", 8)
    monkeypatch.undo()
    with pytest.raises(InputError, match="aaa cannot be looked up: File name too long"):
        load_split(DataConfig(name="a" * 5000), "train", 8)


def test_directory_without_data(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds no data file.*\.txt"):
        documents(tmp_path)


def test_directory_of_mixed_formats(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.csv").write_text("text\nb\n")
    with pytest.raises(InputError, match=r"several formats \(csv, text\)"):
        documents(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("secret")
    path.chmod(0)
    with pytest.raises(InputError, match=r"Permission denied.*permissions"):
        as_train(path)


@pytest.mark.parametrize("where", ["hash_file", "open_bytes"])
def test_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("secret")
    opened = Path.open
    calls: list[int] = []

    def deny(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            calls.append(1)
            if len(calls) > (where == "open_bytes"):
                raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(InputError, match=r"a\.txt cannot be read: Permission denied"):
        as_train(path)


def test_text_shorter_than_one_context(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    config = DataConfig(train=str(tmp_path / "a.txt"))
    assert len(load_split(config, "train", 7)) == 1
    with pytest.raises(InputError, match="has 5 tokens, fewer than one context of 8"):
        load_split(config, "train", 8)


def test_split_that_comes_out_empty(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a few words")
    with pytest.raises(InputError, match=r"validation split .* is empty.*data\.validation"):
        load_split(DataConfig(name=str(tmp_path / "a.txt")), "validation", 8)


def test_train_file_with_the_default_validation(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(InputError, match=r"data\.train names a file but data\.validation does not"):
        load_split(DataConfig(train=str(tmp_path / "a.txt")), "validation", 8)


def test_the_same_file_for_two_splits(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    config = DataConfig(train=str(tmp_path / "a.txt"), validation=str(tmp_path / "b.txt"))
    with pytest.raises(InputError, match="must not overlap"):
        load_split(config, "train", 8)


@pytest.mark.parametrize(("split", "length", "cause"), [("valid", 8, "Did you mean"), ("train", 1, "at least 2")])
def test_wrong_arguments(split: Any, length: int, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        load_split(DataConfig(), split, length)


def test_changed_file_is_read_again_even_with_its_old_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "old"}\n')
    before = path.stat()
    assert as_train(path) == ["old"]
    path.write_text('{"text": "new"}\n')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert as_train(path) == ["new"]


def test_tokens_are_the_text(tmp_path: Path, corpus: Corpus) -> None:
    path = write_rows(tmp_path / "a.jsonl", corpus(50))
    tokenizer = load_tokenizer("bytes")
    split = load_split(DataConfig(train=str(path)), "train", 16)
    tokens = split.tokens(range(len(split)))
    assert tokens.shape == (len(split), 16)
    assert tokens.dtype == "int64"
    assert split.valid([0, 1]).all()
    stream = tokens[:, 1:].reshape(-1)
    ends = [piece for text in corpus(50) for piece in (*text.encode(), tokenizer.eos_id)]
    assert stream.tolist() == ends[: len(stream)]
    assert split.n_tokens == len(stream) == len(ends) - split.description["dropped_tokens"]
    described = split.description
    assert described["bytes"] == sum(len(t.encode()) for t in corpus(50))
    assert (described["documents"], described["sequences"]) == (50, len(split))


def test_padded_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab\n\ncdefgh\n")
    split = load_split(DataConfig(train=str(tmp_path / "a.txt"), document="line", packing="pad"), "train", 6)
    assert split.tokens([0, 1]).tolist() == [[256, 97, 98, 257, 257, 257], [256, 99, 100, 101, 102, 103]]
    assert split.valid([1, 0]).tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert split.n_tokens == 3 + 5
    assert split.description["dropped_tokens"] == 1


def test_local_tables_are_read_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: Any, **options: Any) -> None:
        pytest.fail(f"asked the network for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / "a.jsonl").write_text('{"text": "local"}\n')
    assert as_train(tmp_path / "a.jsonl") == ["local"]
