"""Directories of data: which files hold text, for which split, and what is left out and why."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from bd3cli.data.files import EXTENSIONS, FORMATS, Files, exists, format_of
from bd3cli.data.split_names import SPLIT_NAMES, names_a_split, read_names
from bd3cli.errors import InputError

log = logging.getLogger("bd3cli.data")
SHOWN = 5  # names in a message
COMPRESSIONS = {".gz", ".zst", ".bz2", ".xz"}
# What lies beside data and tells of it: README-en.md and LICENSE-MIT too; a tokenizer's files, the names of classes.
ABOUT = re.compile(
    r"""(readme|licen[cs]e|copying|citation|contributing|contributors|authors|code[_-]of[_-]conduct|change(s|log)
        |datasheet|data(set)?[_-]?card|requirements|(md5|sha\d+)sums?|checksums?) ([ ._-].*)?
    |   (dataset_infos?|dataset_dict|state|metadata|datapackage|croissant|manifest|(generation_)?config
        |tokenizer(_config)?|special_tokens_map|added_tokens|vocab)\.json
    |   (vocab|merges|classes|labels)\.txt
    |   \.git(attributes|ignore)""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class LocalFiles:
    """The data files at a path.

    Attributes:
        files: of each split where their names say so, else all under ``all``.
        left_out: in words, what was passed over and why; empty when nothing was.
    """

    files: Files
    left_out: str = ""


def local_files(path: Path, split_names: str = "auto") -> LocalFiles:
    """The data files at `path`, in sorted order, each once however many names lead to it.

    Args:
        path: a file, which is taken whatever it is called, or a directory.
        split_names: ``auto`` keeps files that are named for splits apart, ``ignore`` takes all as one collection.

    Raises:
        InputError: nothing there, not readable, no data file in it, or names that do not say clearly which files
            are of which split.
    """
    if not exists(path):
        raise InputError(f"There is no file or directory {path}. Check the path (working directory: {Path.cwd()}).")
    if not path.is_dir():
        return LocalFiles({"all": [path]})
    walk = _Walk(path)
    files, left_out = walk.files(), walk.left_out()
    if not files:
        raise InputError(
            f"Directory {path} holds no data file. Known extensions: {EXTENSIONS} (also with .gz or .zst)."
            + (f" Left out: {left_out}." if left_out else "")
        )
    if left_out:
        say_once(f"{path}: left out {left_out}.")
    if split_names == "ignore":
        return LocalFiles({"all": files}, left_out)
    by_name: dict[PurePath, list[Path]] = {}  # a.csv and a.txt have one name
    for file in files:
        by_name.setdefault(_without_extension(file.relative_to(path)), []).append(file)
    naming = read_names(list(by_name))

    def named(names: Iterable[PurePath]) -> list[Path]:
        return sorted(file for name in names for file in by_name[name])

    def shown(names: Iterable[PurePath]) -> str:
        return _some([str(file.relative_to(path)) for file in named(names)])

    if naming.unclear or (naming.splits and naming.plain):
        told = [f"{split}: {shown(names)}" for split, names in naming.splits.items()]
        told += [f"with a word for a split, but unclear which: {shown(naming.unclear)}"] if naming.unclear else []
        told += [f"without one: {shown(naming.plain)}"] if naming.plain else []
        raise InputError(
            f"The names in {path} do not say clearly which files are of which split ({'; '.join(told)}). Name the "
            "file or directory of each split with data.train, data.validation and data.test, move away what does not "
            "belong, or set data.split_names=ignore if all of them are ordinary documents, to have them divided "
            "90/5/5."
        )
    if naming.asides:
        say_once(f"{path}: read as one collection, although a word for a split stands inside {shown(naming.asides)}.")
    splits: Files = {split: named(names) for split, names in naming.splits.items()}
    for again, first in walk.links_to_files.items():
        _check_link(path, again, first)
    return LocalFiles(splits or {"all": files}, left_out)


def _check_link(root: Path, *paths: Path) -> None:
    """Refuse two names of one file that name different splits."""
    names = [_without_extension(path.relative_to(root)) for path in paths]
    splits = read_names(names).splits
    if len(splits) > 1:
        raise InputError(
            f"{paths[0]} and {paths[1]} are the same file, for {' and '.join(splits)}: splits must not overlap. "
            "Remove one, or name the file of each split with data.train, data.validation and data.test."
        )


def file_key(path: Path) -> object:
    """What is equal for two paths of one file, whatever links lead to it."""
    try:
        stat = path.stat()
    except OSError:
        return os.path.abspath(path)
    return (stat.st_dev, stat.st_ino) if stat.st_ino else os.path.realpath(path)


class _Walk:
    """Everything at or under a directory, sorted by what is to be done with it.

    Links are followed last, so that a file that has a place of its own in the directory is known by that one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._data: dict[object, Path] = {}
        self.links_to_files: dict[Path, Path] = {}  # to the name by which each is read
        self._others: dict[str, list[str]] = {}
        self._directories: set[object] = {file_key(root)}
        self._links: list[Path] = []
        self._list(root)
        while self._links:
            self._take(self._links.pop(0))

    def files(self) -> list[Path]:
        return sorted(self._data.values())

    def left_out(self) -> str:
        """In words, what is not among the files."""
        groups = sorted(self._others.items())
        return ", ".join(f"{len(names)} {reason} ({_some(sorted(names))})" for reason, names in groups)

    def _list(self, directory: Path) -> None:
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            raise InputError(
                f"Directory {directory} cannot be read: {error.strerror}. Check its permissions."
            ) from error
        for name in names:
            entry = directory / name
            if entry.is_symlink():
                self._links.append(entry)
            else:
                self._take(entry)

    def _take(self, entry: Path) -> None:
        name = entry.name
        if ABOUT.fullmatch(name) and not entry.is_dir():
            self._leave(entry, "about the data")
        elif name.startswith("."):
            self._leave(entry, "hidden")
        elif entry.is_dir():
            key = file_key(entry)
            if key in self._directories:
                self._leave(entry, "linking to what is here already")
            else:
                self._directories.add(key)
                self._list(entry)
        elif entry.exists() and not entry.is_file():
            self._leave(entry, "not regular")  # a pipe, say
        elif not _is_data(entry):
            self._leave(entry, "of unknown extension")
        elif (key := file_key(entry)) in self._data:
            self._leave(entry, "linking to what is here already")
            self.links_to_files[entry] = self._data[key]
        else:
            self._data[key] = entry

    def _leave(self, entry: Path, reason: str) -> None:
        self._others.setdefault(reason, []).append(str(entry.relative_to(self._root)))


def _is_data(path: Path) -> bool:
    """Whether a file of a directory is read: of a known extension, or called ``ptb.train`` or just ``train``."""
    suffix = path.suffix[1:].lower()
    return bool(format_of(path)) or suffix in SPLIT_NAMES or (not suffix and names_a_split(path.name))


def _without_extension(path: PurePath) -> PurePath:
    while path.suffix.lower() in FORMATS or path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


@functools.cache
def say_once(text: str) -> None:
    """A notice on stderr, once a process: the splits of one directory are read one after the other."""
    log.warning("bd3cli: %s", text)
