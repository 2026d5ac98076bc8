"""Directories that ``save_to_disk`` of `datasets` has written: which Arrow files hold the rows of which split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bd3cli.data.directories import say_once
from bd3cli.data.files import Files
from bd3cli.data.split_names import SPLIT_NAMES
from bd3cli.data.splits import SPLITS
from bd3cli.data.streams import open_bytes
from bd3cli.errors import InputError

TABLE, DICT = "state.json", "dataset_dict.json"  # in the directory of a Dataset, and in that of a DatasetDict


def saved_files(path: Path) -> Files | None:
    """The files of a saved data set by split, or under ``all`` when it has none or ``train`` alone.

    None when the directory is no saved data set. The rows are read from the Arrow files themselves, so it does not
    matter which release of `datasets` wrote them or what its other columns hold.

    Raises:
        InputError: it is damaged, or none of its splits is called as one.
    """
    if (path / DICT).is_file() and any(path.glob(f"*/{TABLE}")):
        tables = {name: _data_files(path / name) for name in _read(path / DICT, "splits")}
        if list(tables) == ["train"]:
            return {"all": tables["train"]}
        named: Files = {}
        for name in tables:
            if (split := SPLIT_NAMES.get(name.lower())) is None:
                say_once(f"{path}: its split {name!r} is none of train, validation and test and is not used.")
            elif split in named:
                raise InputError(f"{path} has two splits that are taken for {split}: {', '.join(tables)}. Rename one.")
            else:
                named[split] = tables[name]
        if not named:
            raise InputError(
                f"{path} has the splits {', '.join(tables) or 'none'}, of which none is called train, validation or "
                "test. Name one of its directories as data.train or data.name."
            )
        return {split: named[split] for split in SPLITS if split in named}
    if _is_table(path):
        return {"all": _data_files(path)}
    return None


def _is_table(path: Path) -> bool:
    """Whether a directory is a saved table; others may well have files that are called so."""
    if not ((path / TABLE).is_file() and (path / "dataset_info.json").is_file()):
        return False
    return any(path.glob("*.arrow")) or b'"_data_files"' in open_bytes(path / TABLE)[:]


def _data_files(folder: Path) -> list[Path]:
    if _read(folder / TABLE, "_indices_data_files", []):
        raise InputError(f"{folder} was saved with an order of its rows apart. Save flatten_indices() of it.")
    files = [folder / str(file["filename"]) for file in _read(folder / TABLE, "_data_files")]
    if not files:
        raise InputError(f"The data set saved in {folder} holds no text, not one file. Give one with text in it.")
    return files


def _read(path: Path, key: str, default: Any = None) -> Any:
    try:
        found = json.loads(path.read_bytes())
        return found[key] if default is None else found.get(key) or default
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Save the data set again.") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not what `datasets` writes there ({error}). Save the data set again.") from error
