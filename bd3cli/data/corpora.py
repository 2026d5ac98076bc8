"""The data sets known by name: where they are, and how the literature splits and reads them."""

from __future__ import annotations

import contextlib
import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from bd3cli.data.documents import Documents
from bd3cli.data.spans import Spans
from bd3cli.data.splits import Split
from bd3cli.data.textfiles import Unit
from bd3cli.errors import InputError
from bd3cli.parameters import check_ranges
from bd3cli.plugins import load_plugins

LOCAL_COPY = "no; give local copies as data.train, data.validation, data.test"


@dataclass(frozen=True)
class Part:
    """Some rows of a hub split: `rows` as in a slice, ``(None, -100000)`` for all but the last 100,000."""

    split: str
    rows: tuple[int | None, int | None] = (None, None)

    def __str__(self) -> str:
        begin, end = ("" if bound is None else str(bound) for bound in self.rows)
        return self.split if self.rows == (None, None) else f"{self.split}[{begin}:{end}]"


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub."""

    path: str
    config: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return self.path + (f":{self.config}" if self.config else "")


@dataclass(frozen=True)
class DatasetInfo:
    """A registered data set.

    Attributes:
        splits: those that it has.
        column: the text column; several joined by ``+`` are put together with a space.
        detokenizer: what ``detokenize = "auto"`` applies.
        document: what one document is.
        offline: whether it works without a network, or how.
        source: where it comes from.
        unit: what one document is in a plain-text copy of it.
        header: columns of a CSV copy of it that has no header line.
        hub, parts: the hub data set, and which rows of it each split is.
    """

    name: str
    description: str
    column: str | None = None
    detokenizer: str = "none"
    document: str = "row"
    offline: str = LOCAL_COPY
    source: str = ""
    licence: str = "see its page on the hub"
    unit: Unit = "line"
    header: tuple[str, ...] = ()
    hub: Hub | None = None
    parts: Mapping[Split, Part] = field(default_factory=dict)
    splits: tuple[Split, ...] = ("train", "validation", "test")


# Topics include one another: all of "with" stands in "compound". Two that share a run of this many characters go
# to one split. It is half the run that `bd3cli.data.overlap` counts, so that nothing is near the edge.
PYDOCS_SHARED_RUN = 100
PYDOCS = DatasetInfo(
    name="pydocs",
    description="the prose of Python's own language reference, about 450 KB; varies with the Python version",
    document="topic",
    offline="yes, it comes with every Python",
    source="pydoc_data.topics of the running Python",
    licence="PSF-2.0",
    unit="file",
)


def _hub(
    name: str, description: str, hub: Hub, parts: Mapping[Split, Part] | None = None, **other: object
) -> DatasetInfo:
    """A data set of the hub; `parts` are the splits of the same names when not given."""
    parts = parts or {"train": Part("train"), "validation": Part("validation"), "test": Part("test")}
    known = {"column": "text", "source": f"hub {hub}", **other}
    return DatasetInfo(
        name=name,
        description=description,
        hub=hub,
        parts=parts,
        splits=tuple(parts),
        **known,  # type: ignore[arg-type]
    )


PARQUET = "refs/convert/parquet"  # see `bd3cli.data.hub`
TEST_TWICE: Mapping[Split, Part] = {"train": Part("train"), "validation": Part("test"), "test": Part("test")}
LAST_100K: Mapping[Split, Part] = {
    "train": Part("train", (None, -100_000)),
    "validation": Part("train", (-100_000, None)),
    "test": Part("train", (-100_000, None)),
}

LM1B = _hub(
    "lm1b",
    "One Billion Words, sentences of news; validation is its test split, as in the paper",
    Hub("billion-word-benchmark/lm1b", revision=PARQUET),
    TEST_TWICE,
    detokenizer="lm1b",
    document="sentence",
)
OPENWEBTEXT = _hub(
    "openwebtext",
    "web pages linked from Reddit; validation and test are the last 100,000 documents, as in the paper",
    Hub("Skylion007/openwebtext"),
    LAST_100K,
    document="web page",
    unit="file",
    licence="CC0 (packaging)",
)
WIKITEXT2 = _hub(
    "wikitext2",
    "WikiText-2, raw: 2 million words of good Wikipedia articles",
    Hub("Salesforce/wikitext", "wikitext-2-raw-v1"),
    detokenizer="wikitext",
    document="line",
    licence="CC-BY-SA-4.0",
)
WIKITEXT103 = _hub(
    "wikitext103",
    "WikiText-103, raw: 100 million words of good Wikipedia articles",
    Hub("Salesforce/wikitext", "wikitext-103-raw-v1"),
    detokenizer="wikitext",
    document="line",
    licence="CC-BY-SA-4.0",
)
PTB = _hub(
    "ptb",
    "Penn Treebank, 10,000-word vocabulary: sentences of the Wall Street Journal",
    Hub("ptb-text-only/ptb_text_only", revision=PARQUET),
    column="sentence",
    detokenizer="ptb",
    document="sentence",
    licence="LDC user agreement",
)
LAMBADA = _hub(
    "lambada",
    "passages of novels whose last word needs the whole passage (OpenAI's version); validation is test",
    Hub("EleutherAI/lambada_openai", "default"),
    {"validation": Part("test"), "test": Part("test")},
    detokenizer="lambada",
    document="passage",
    licence="MIT (packaging)",
)
AG_NEWS = _hub(
    "ag_news",
    "AG News, titles and descriptions of news; validation is its test split, as in the paper",
    Hub("fancyzhx/ag_news"),
    TEST_TWICE,
    document="news item",
    header=("label", "title", "description"),
    licence="non-commercial",
)
PUBMED = _hub(
    "pubmed",
    "articles of PubMed from Scientific Papers",
    Hub("ccdv/pubmed-summarization", "document"),
    column="article",
    detokenizer="scientific",
    document="article",
)
ARXIV = _hub(
    "arxiv",
    "articles of arXiv from Scientific Papers",
    Hub("ccdv/arxiv-summarization", "document"),
    column="article",
    detokenizer="scientific",
    document="article",
)


class Corpus(ABC):
    """A data set that a plugin reads or makes: a frozen dataclass, whose fields are its parameters.

    Attributes:
        splits: those that it has.
        detokenizer: what ``detokenize = "auto"`` applies.
        document: what one document is.
        offline: whether it works without a network, or how.
        source, licence: where it comes from, and on which terms.
    """

    splits: ClassVar[tuple[Split, ...]] = ("train", "validation", "test")
    detokenizer: ClassVar[str] = "none"
    document: ClassVar[str] = "row"
    offline: ClassVar[str] = "see its plugin"
    source: ClassVar[str] = ""
    licence: ClassVar[str] = "see its plugin"

    def __post_init__(self) -> None:
        check_ranges(self)

    @abstractmethod
    def read(self, split: Split) -> Sequence[str] | Documents:
        """The documents of a split, the same ones whenever they are read, and none of another split's."""

    @classmethod
    def info(cls, name: str) -> DatasetInfo:
        """What lists tell of it; the description is the first line of the class's own docstring."""
        description = next(iter((cls.__dict__.get("__doc__") or "").strip().splitlines()), "")
        return DatasetInfo(
            name=name,
            description="" if description.startswith(f"{cls.__name__}(") else description,
            detokenizer=cls.detokenizer,
            document=cls.document,
            offline=cls.offline,
            source=cls.source,
            licence=cls.licence,
            splits=cls.splits,
        )


def dataset_names() -> list[str]:
    """Names of the registered data sets, those that ship with bd3cli first."""
    return load_plugins().registry["dataset"].names()


def is_registered(spec: str) -> bool:
    """Whether a data set's name, with parameters or not, is that of a registered one."""
    return spec.partition(":")[0] in load_plugins().registry["dataset"]


def find_dataset(spec: str) -> DatasetInfo:
    """What is known of the registered data set that `spec` asks for.

    Raises:
        InputError: there is none of that name, or it cannot be used.
    """
    name = spec.partition(":")[0]
    found = load_plugins().registry["dataset"].find(name)
    if isinstance(found, DatasetInfo):
        if spec != name:
            raise InputError(f"Data set {name!r} takes no parameters, not {spec!r}.")
        if found.hub is None and found is not PYDOCS:
            raise InputError(
                f"Data set {name!r} does not say where its text is: its plugin must give DatasetInfo a hub and parts, "
                "or make it a Corpus that reads."
            )
        return replace(found, name=name)
    corpus: type[Corpus] = found
    return corpus.info(name)


def list_datasets() -> list[DatasetInfo]:
    """The registered data sets, `pydocs` first and the others by name; broken ones are left to ``plugins list``."""
    found = []
    for name in sorted(dataset_names()):
        with contextlib.suppress(InputError):
            found.append(find_dataset(name))
    return sorted(found, key=lambda info: info.name != PYDOCS.name)


def read_pydocs() -> Spans:
    """The topics of the running Python's `help`, one a document, in the order of their names."""
    from pydoc_data.topics import topics

    return Spans.of([topics[name] for name in sorted(topics)])


def pydocs_edition() -> str:
    """Which edition of `pydocs` this is."""
    return f"Python {platform.python_version()}"
