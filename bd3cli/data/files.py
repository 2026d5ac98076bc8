"""Local files and directories: which of them hold the text of which split, and in what format."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

from bd3cli.data.splits import SPLITS, Split
from bd3cli.errors import InputError

Format = Literal["text", "json", "csv", "parquet", "arrow"]
FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".tokens": "text",
    ".raw": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
Files: TypeAlias = dict[Split | Literal["all"], list[Path]]
EXTENSIONS = ", ".join(FORMATS)
COMPRESSED = (".gz", ".zst")


def format_of(path: Path) -> Format | None:
    """The format a file's extension names, ``.gz`` and ``.zst`` aside; None when it names none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def files_format(paths: list[Path]) -> Format:
    """The one format of `paths`; a file named outright may have any extension, and is then plain text.

    Raises:
        InputError: when they are of several formats.
    """
    formats = {format_of(path) or "text" for path in paths}
    if len(formats) > 1:
        raise InputError(
            f"{paths[0].parent} holds files of several formats ({', '.join(sorted(formats))}). Name "
            "one file, or name those of each split with data.train, data.validation and data.test."
        )
    return formats.pop()


def exists(path: Path) -> bool:
    """Whether there is something at `path`.

    Raises:
        InputError: when that cannot be told, for want of permission or because it is not a path at all.
    """
    try:
        return path.exists()
    except OSError as error:
        raise InputError(
            f"{str(path)[:200]} cannot be looked up: {error.strerror}. Check the path and the permissions of its "
            "directories."
        ) from error


def local_files(path: Path) -> Files:
    """The data files at `path`, in sorted order: of each split where their names say so, else under ``all``.

    A directory's files are taken as splits when one is called ``train.*``, or when all of them are called
    after splits (``valid.*``, ``validation.*``, ``val.*``, ``dev.*``, ``test.*``); directories of these
    names count too.

    Raises:
        InputError: nothing there, not readable, or no data file in it.
    """
    if not exists(path):
        raise InputError(f"There is no file or directory {path}. Check the path (working directory: {Path.cwd()}).")
    if not path.is_dir():
        return {"all": [path]}
    entries = [entry for entry in _listing(path) if entry.is_dir() or format_of(entry)]
    named: Files = {}
    for entry in entries:
        split = SPLIT_NAMES.get(entry.name.split(".")[0].lower())
        if split:
            named.setdefault(split, []).extend(_data_files(entry))
    files = _data_files(path)
    if not files:
        raise InputError(f"Directory {path} holds no data file. Known extensions: {EXTENSIONS} (also with .gz).")
    if "train" in named or {f for group in named.values() for f in group} == set(files):
        return {split: named[split] for split in SPLITS if named.get(split)}
    return {"all": files}


def _data_files(path: Path) -> list[Path]:
    """Files with a known extension at or under `path`, hidden ones left out, sorted by their path."""
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for entry in _listing(path):
        if entry.is_dir() or format_of(entry):
            found += _data_files(entry)
    return found


def _listing(directory: Path) -> Iterable[Path]:
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as error:
        raise InputError(f"Directory {directory} cannot be read: {error.strerror}. Check its permissions.") from error
    return [directory / name for name in names]
