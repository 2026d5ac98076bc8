"""Recognise the format of a local file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from bd3cli.data.splits import Split
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
