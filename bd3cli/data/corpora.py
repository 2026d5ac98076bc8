"""The data sets known by name."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from bd3cli.data.documents import Documents, TextList


@dataclass(frozen=True)
class DatasetInfo:
    """What `data list` tells of one data set."""

    name: str
    description: str
    splits: tuple[str, ...]
    column: str | None
    detokenizer: str
    document: str
    offline: str
    source: str
    licence: str


PYDOCS = DatasetInfo(
    name="pydocs",
    description="the prose of Python's own language reference, about 450 KB; varies with the Python version",
    splits=("train", "validation", "test"),
    column=None,
    detokenizer="none",
    document="topic",
    offline="yes, it comes with every Python",
    source="pydoc_data.topics of the running Python",
    licence="PSF-2.0",
)


def list_datasets() -> list[DatasetInfo]:
    """The registered data sets, by name."""
    return [PYDOCS]


def read_pydocs() -> Documents:
    """The topics of the running Python's `help`, one a document, in the order of their names."""
    from pydoc_data.topics import topics

    return TextList([topics[name] for name in sorted(topics)])


def pydocs_edition() -> str:
    """Which edition of `pydocs` this is."""
    return f"Python {platform.python_version()}"
