"""From a configuration and a split to documents: `pydocs`, local files, data sets of the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bd3cli.data import corpora, hub, tabular
from bd3cli.data.cache import writable_directory
from bd3cli.data.corpora import DatasetInfo, Hub, Part, dataset_names, find_dataset, is_registered
from bd3cli.data.detokenizers import get_detokenizer
from bd3cli.data.directories import LocalFiles, file_key, local_files
from bd3cli.data.documents import Documents
from bd3cli.data.files import Files, exists, files_format, format_of
from bd3cli.data.plugin_corpora import read_corpus
from bd3cli.data.saved import saved_files
from bd3cli.data.split_names import SPLIT_NAMES
from bd3cli.data.splits import SPLITS, Split, seeded_subset, split_documents
from bd3cli.data.textfiles import Unit, read_text_files, readable
from bd3cli.errors import InputError, did_you_mean
from bd3cli.hashing import hash_file, hash_texts

if TYPE_CHECKING:
    import datasets

    from bd3cli.recipes.settings import DataConfig

UNREGISTERED = DatasetInfo("", "", document="", unit="file")


def _info(config: DataConfig) -> DatasetInfo:
    """What is known of the data set; of files on their own, named while `name` is its default, nothing."""
    alone = config.name == "pydocs" and (config.train or config.validation or config.test)
    return find_dataset(config.name) if is_registered(config.name) and not alone else UNREGISTERED


@dataclass(frozen=True)
class Source:
    """The documents of one split, not read yet.

    Attributes:
        identity: everything that decides which documents they are; two equal ones mean equal documents.
        facts: what a run records of where they came from.
        read: returns the documents, and facts that only reading them shows.
        detokenizer: name of the one to apply to each.
    """

    identity: dict[str, Any]
    facts: dict[str, Any]
    read: Callable[[], tuple[Documents, dict[str, Any]]]
    detokenizer: str = "none"


def resolve(config: DataConfig, split: Split, cache_dir: Path) -> Source:
    """Find the documents of a split without reading more than their hash needs.

    Args:
        config: which data.
        split: ``train``, ``validation`` or ``test``.
        cache_dir: where tables are converted to Arrow.

    Raises:
        InputError: unknown name, missing or unusable file, a split that does not exist.
    """
    _check_apart(config, split)
    source = _locate(config, split, cache_dir)
    info = _info(config)
    detokenizer = info.detokenizer if config.detokenize == "auto" else config.detokenize
    get_detokenizer(detokenizer)
    source = replace(
        source,
        identity={**source.identity, "split": split, "detokenizer": detokenizer},
        facts={"dataset": config.name, "split": split, **source.facts, "detokenizer": detokenizer},
        detokenizer=detokenizer,
    )
    return _subset(source, config) if split == "train" and config.max_documents is not None else source


def _subset(source: Source, config: DataConfig) -> Source:
    count, seed = config.max_documents, config.subset_seed
    if count is None or count < 1:
        raise InputError(f"data.max_documents is {count}. Ask for at least one document.")

    def read() -> tuple[Documents, dict[str, Any]]:
        documents, facts = source.read()
        return seeded_subset(documents, count, seed), {**facts, "documents_before_subset": len(documents)}

    subset = {"max_documents": count, "subset_seed": seed}
    return replace(source, identity=source.identity | subset, facts=source.facts | subset, read=read)


def _explicit(config: DataConfig) -> dict[Split, Path]:
    """Files named for their split. Where two splits of a data set are the same, one file serves both."""
    given = {"train": config.train, "validation": config.validation, "test": config.test}
    parts = _info(config).parts
    if "test" in parts and parts.get("validation") == parts["test"]:
        given["validation"] = given["validation"] or given["test"]
        given["test"] = given["test"] or given["validation"]
    return {split: Path(path).expanduser() for split in SPLITS if (path := given[split]) is not None}


def _check_apart(config: DataConfig, split: Split) -> None:
    """Refuse a file that is for training and for measuring, whatever links lead to it."""
    named = _explicit(config)
    places = {other: (f"data.{other}", path) for other, path in named.items()}
    path = Path(config.name).expanduser()
    if named and split not in named and not is_registered(config.name) and exists(path):
        places[split] = (f"the {split} split of data.name", path)
    if len(places) < 2:
        return
    train = _by_key(places, "train", config)
    for other in ("validation", "test"):
        for key, file in _by_key(places, other, config).items():
            if key in train:
                raise InputError(
                    f"{places['train'][0]} and {places[other][0]} are the same file, {train[key]}"
                    f"{'' if file == train[key] else f' ({file})'}: splits must not overlap. Name another, or give "
                    "the file as data.name to have it split 90/5/5."
                )


def _by_key(places: dict[Split, tuple[str, Path]], split: Split, config: DataConfig) -> dict[object, Path]:
    """The files of a split by what identifies them; none where they cannot be told, which is refused elsewhere."""
    if split not in places or not exists(places[split][1]):
        return {}
    files = _files(places[split][1], config).files
    return {file_key(file): file for file in files.get("all", files.get(split, []))}


def _locate(config: DataConfig, split: Split, cache_dir: Path) -> Source:
    explicit = _explicit(config)
    if split in explicit:
        found = _files(explicit[split], config)
        own = replace(found, files={"all": _own_files(found.files, explicit[split], split)})
        return _from_files(_info(config).name or str(explicit[split]), own, config, None, cache_dir)
    if explicit and config.name == "pydocs":
        raise InputError(
            f"data.{next(iter(explicit))} names a file but data.{split} does not. Name one, or give a single "
            "file as data.name to have it split 90/5/5."
        )
    if config.name == "pydocs":
        return _pydocs(split)
    if is_registered(config.name):
        info = find_dataset(config.name)
        return _plugins(config.name, split) if info.hub is None else _registered(info, config, split)
    path = Path(config.name).expanduser()
    if exists(path) or config.name.startswith((".", "/", "~")) or format_of(path):
        return _local(path, config, split, cache_dir)
    if _is_hub_name(config.name):
        return _unregistered(config, split)
    raise InputError(
        f"There is no data set, file or directory {config.name!r}.{did_you_mean(config.name, dataset_names())} "
        f"Registered: {', '.join(dataset_names())}. Other names: org/name or org/name:config of the hub. "
        "A missing one may need a plugin: see `bd3cli plugins list`."
    )


def _pydocs(split: Split) -> Source:
    documents = corpora.read_pydocs()

    def read() -> tuple[Documents, dict[str, Any]]:
        parts, policy = split_documents(documents, corpora.PYDOCS_SHARED_RUN)
        return parts[split], {"split_policy": policy}

    facts = {"source": corpora.pydocs_edition(), "document": "topic"}
    # The rule of the split is part of the identity: tokens cached under another rule are of other documents.
    rule = {"carved": True, "shared_run": corpora.PYDOCS_SHARED_RUN}
    return Source({"content": hash_texts(documents), **rule}, facts, read)


def _plugins(spec: str, split: Split) -> Source:
    documents, identity, facts = read_corpus(spec, split)
    return Source(identity, facts, lambda: (documents, {}))


def _local(path: Path, config: DataConfig, split: Split, cache_dir: Path) -> Source:
    found = _files(path, config)
    own = replace(found, files={"all": _own_files(found.files, path, split)})
    return _from_files(config.name, own, config, split if "all" in found.files else None, cache_dir)


def _files(path: Path, config: DataConfig) -> LocalFiles:
    saved = saved_files(path)
    return LocalFiles(saved) if saved else local_files(path, config.split_names)


def _own_files(found: Files, path: Path, split: Split) -> list[Path]:
    """The files of one split, or all of them where they are one collection."""
    if "all" in found:
        return found["all"]
    if split not in found:
        raise InputError(
            f"{path} has files for {', '.join(found)} and none for {split}. Add {split}.txt to it (or "
            f"another format), name a file as data.{split}, or set data.split_names=ignore if their names mean "
            "nothing of the kind."
        )
    return found[split]


def _from_files(name: str, found: LocalFiles, config: DataConfig, carve: Split | None, cache_dir: Path) -> Source:
    """Documents of local files: all of them, or the split `carve` of them."""
    info, paths = _info(config), found.files["all"]
    kind = files_format(paths)
    unit: Unit = info.unit if config.document == "auto" else config.document
    document = unit if kind == "text" else "row"
    content = [_hashed(path) for path in paths]

    def read() -> tuple[Documents, dict[str, Any]]:
        documents: Documents
        notes: list[str] = []
        if kind == "text":
            documents = read_text_files(paths, unit)
        else:
            columns = tabular.Columns(config.column, info.column, info.header)
            documents, notes = tabular.read_rows(paths, kind, columns, content, writable_directory(cache_dir) / "arrow")
        documents, facts = _carved(documents, carve, "all of the files named for it")
        return documents, {**facts, **({"notes": notes} if notes else {})}

    files = [{"path": str(path), "sha256": sha} for path, sha in zip(paths, content, strict=True)]
    identity: dict[str, Any] = {
        "content": content,
        "kind": kind,
        "document": document,
        "column": [config.column, info.column, info.header],
        "carved": carve is not None,
    }
    if kind != "text":
        identity["readers"] = tabular.READERS
    left_out = {"left_out": found.left_out} if found.left_out else {}
    return Source(identity, {"dataset": name, "files": files, **left_out, "document": document}, read)


def _registered(info: DatasetInfo, config: DataConfig, split: Split) -> Source:
    if split not in info.parts:
        raise InputError(
            f"Data set {info.name!r} has no {split} split, only {', '.join(info.parts)}. Name a file with data.{split}."
        )
    assert info.hub is not None
    part = info.parts[split]
    tables = hub.load_hub(info.hub, info.name)
    same = [other for other in info.parts if other != split and info.parts[other] == part]
    policy = f"rows {part} of the hub" + (f", the same as {' and '.join(same)}" if same else "")
    return _from_hub(tables, part, policy, info.hub, config, None)


def _unregistered(config: DataConfig, split: Split) -> Source:
    path, _, name = config.name.partition(":")
    source = Hub(path, name or None)
    tables = hub.load_hub(source, config.name)
    if list(tables) == ["train"]:
        return _from_hub(tables, Part("train"), "", source, config, split)
    named = {SPLIT_NAMES[own]: own for own in tables if own in SPLIT_NAMES}
    if split in named:
        return _from_hub(tables, Part(named[split]), "the data set's own", source, config, None)
    raise InputError(
        f"Data set {config.name!r} has the splits {', '.join(tables)} and none for {split}. Name a file with "
        f"data.{split}."
    )


def _from_hub(
    tables: datasets.DatasetDict,
    part: Part,
    policy: str,
    source: Hub,
    config: DataConfig,
    carve: Split | None,
) -> Source:
    info = _info(config)
    table = tables[part.split]
    rows = range(len(table))[slice(*part.rows)]
    chosen = table.with_format("arrow")[:].slice(rows.start, len(rows))
    documents = tabular.text_rows(chosen, config.column, info.column, f"Data set {config.name!r}")
    at = {"hub": str(source), "revision": hub.commit_of(table)}

    def read() -> tuple[Documents, dict[str, Any]]:
        return _carved(documents, carve, policy)

    identity = {**at, "part": str(part), "rows": len(rows), "columns": documents.columns, "carved": carve is not None}
    return Source(identity, {**at, "rows": str(part), "document": info.document or "row"}, read)


def _carved(documents: Documents, carve: Split | None, policy: str) -> tuple[Documents, dict[str, Any]]:
    if carve is not None:
        parts, policy = split_documents(documents)
        documents = parts[carve]
    return documents, {"split_policy": policy}


def _is_hub_name(name: str) -> bool:
    organisation, slash, rest = name.partition("/")
    return bool(organisation and slash and rest) and "/" not in rest and " " not in name


def _hashed(path: Path) -> str:
    with readable(path):
        return hash_file(path)
