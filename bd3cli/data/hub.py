"""Data sets of the Hugging Face hub; from its cache when the hub cannot be reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bd3cli.data.corpora import PARQUET, Hub, list_datasets
from bd3cli.data.hub_libraries import brief, hub_access, quiet
from bd3cli.errors import InputError

if TYPE_CHECKING:
    import datasets

DOWNLOAD = "Download its files and give them as data.train, data.validation and data.test."


def load_hub(hub: Hub, name: str) -> datasets.DatasetDict:
    """Every split of a hub data set, downloaded or from the cache of `datasets`.

    Raises:
        InputError: no such data set, or it must be downloaded and cannot be.
    """
    import datasets

    with hub_access() as online, quiet():
        try:
            if online and hub.revision == PARQUET:
                _check_whole(hub, name)
            # In the hub's own conversion a configuration is a directory.
            place = {"data_dir": hub.config} if hub.revision == PARQUET else {"name": hub.config}
            loaded = datasets.load_dataset(hub.path, revision=hub.revision, **place)
        except InputError:
            raise
        except Exception as error:
            if hub.revision is None and "scripts are no longer supported" in str(error):
                return load_hub(Hub(hub.path, hub.config, PARQUET), name)
            raise _explained(error, hub, name, online) from error
    assert isinstance(loaded, datasets.DatasetDict)
    return loaded


def commit_of(table: datasets.Dataset) -> str:
    """The commit of the hub data set that a table was made from, as the cache of `datasets` records it."""
    files = table.cache_files
    return Path(files[0]["filename"]).parent.name if files else str(table._fingerprint)


def _check_whole(hub: Hub, name: str) -> None:
    """Refuse a conversion that holds the beginning only: a number measured on it would mislead."""
    import huggingface_hub

    files = huggingface_hub.HfApi().list_repo_files(hub.path, repo_type="dataset", revision=hub.revision)
    partial = [file for file in files if "/partial-" in file]
    if partial:
        raise InputError(
            f"Data set {name!r} (hub {hub}) is a loading script, which `datasets` no longer runs, and the "
            f"hub's own Parquet conversion of it is incomplete ({partial[0]}). {DOWNLOAD}"
        )


def _explained(error: Exception, hub: Hub, name: str, online: bool) -> InputError:
    if not online:
        registered = ", ".join(info.name for info in list_datasets())
        return InputError(
            f"Data set {name!r} (hub {hub}) is not in the cache of `datasets`, and the hub cannot be reached "
            "(or HF_HUB_OFFLINE is set). Without a network use 'pydocs', a local file or directory as "
            "data.name, or local copies of the splits as data.train, data.validation and data.test. "
            f"Registered: {registered}."
        )
    return InputError(
        f"Data set {name!r} (hub {hub}) could not be loaded: {brief(error)}. Check its name and "
        "configuration (org/name or org/name:config)."
    )
