"""From a configuration and a split to documents: registered data sets, local files, hub data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bd3cli.data import corpora
from bd3cli.data.documents import Documents
from bd3cli.data.files import files_format, format_of, local_files
from bd3cli.data.hashing import hash_file, hash_texts
from bd3cli.data.splits import SPLITS, Split, seeded_subset, split_documents
from bd3cli.data.textfiles import TextFiles, Unit
from bd3cli.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from bd3cli.config import DataConfig


@dataclass(frozen=True)
class Source:
    """The documents of one split, not read yet.

    Attributes:
        identity: everything that decides which documents they are; two equal ones mean equal documents.
        facts: what a run records of where they came from.
        read: returns the documents, and facts that only reading them shows.
    """

    identity: dict[str, Any]
    facts: dict[str, Any]
    read: Callable[[], tuple[Documents, dict[str, Any]]]


def resolve(config: DataConfig, split: Split) -> Source:
    """Find the documents of a split without reading more than their hash needs.

    Raises:
        InputError: unknown name, missing or unusable file, a split that does not exist.
    """
    source = _locate(config, split)
    if split != "train" or config.max_documents is None:
        return source
    count, seed = config.max_documents, config.subset_seed
    if count < 1:
        raise InputError(f"data.max_documents is {count}. Ask for at least one document.")

    def read() -> tuple[Documents, dict[str, Any]]:
        documents, facts = source.read()
        return seeded_subset(documents, count, seed), {**facts, "documents_before_subset": len(documents)}

    subset = {"max_documents": count, "subset_seed": seed}
    return Source({**source.identity, **subset}, {**source.facts, **subset}, read)


def _locate(config: DataConfig, split: Split) -> Source:
    explicit = {name: path for name in SPLITS if (path := getattr(config, name)) is not None}
    if split in explicit:
        path = Path(explicit[split]).expanduser()
        files = [file for group in local_files(path).values() for file in group]
        return _from_files(str(path), files, config, split, carve=False)
    if explicit and config.name == "pydocs":
        raise InputError(
            f"data.{next(iter(explicit))} names a file but data.{split} does not. Name one, or give a single "
            "file as data.name to have it split 90/5/5."
        )
    if config.name == "pydocs":
        return _pydocs(split)
    path = Path(config.name).expanduser()
    if path.exists() or config.name.startswith((".", "/", "~")) or format_of(path):
        found = local_files(path)
        if "all" in found:
            return _from_files(config.name, found["all"], config, split, carve=True)
        if split not in found:
            raise InputError(
                f"{path} has files for {', '.join(found)} and none for {split}. Add {split}.txt to it (or "
                f"another format), or name a file with data.{split}."
            )
        return _from_files(config.name, found[split], config, split, carve=False)
    known = [info.name for info in corpora.list_datasets()]
    raise InputError(
        f"There is no data set, file or directory {config.name!r}.{did_you_mean(config.name, known)} "
        f"Registered: {', '.join(known)}."
    )


def _pydocs(split: Split) -> Source:
    documents = corpora.read_pydocs()

    def read() -> tuple[Documents, dict[str, Any]]:
        parts, policy = split_documents(documents)
        return parts[split], {"split_policy": policy}

    edition = corpora.pydocs_edition()
    return Source(
        {"content": hash_texts(documents), "split": split, "carved": True},
        {"dataset": "pydocs", "split": split, "source": edition, "document": "topic", "detokenizer": "none"},
        read,
    )


def _from_files(name: str, paths: list[Path], config: DataConfig, split: Split, *, carve: bool) -> Source:
    """Documents of local files; `carve` the split out of them, or take all of them for it."""
    if files_format(paths) != "text":
        raise InputError("Only text files are read yet.")
    unit: Unit = "file" if config.document == "auto" else config.document
    content = [_hashed(path) for path in paths]

    def read() -> tuple[Documents, dict[str, Any]]:
        documents: Documents = TextFiles(paths, unit)
        policy = "the files named for it"
        if carve:
            parts, policy = split_documents(documents)
            documents = parts[split]
        return documents, {"split_policy": policy}

    files = [{"path": str(path), "sha256": sha} for path, sha in zip(paths, content, strict=True)]
    return Source(
        {"content": content, "split": split, "carved": carve, "document": unit},
        {"dataset": name, "split": split, "files": files, "document": unit, "detokenizer": "none"},
        read,
    )


def _hashed(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error
