"""The data sets known by name: where they are, and how the literature splits and reads them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from bd3cli.data.spans import Spans
from bd3cli.data.splits import Split
from bd3cli.data.textfiles import Unit

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

DATASETS = [
    PYDOCS,
    _hub(
        "lm1b",
        "One Billion Words, sentences of news; validation is its test split, as in the paper",
        Hub("billion-word-benchmark/lm1b", revision=PARQUET),
        TEST_TWICE,
        detokenizer="lm1b",
        document="sentence",
    ),
    _hub(
        "openwebtext",
        "web pages linked from Reddit; validation and test are the last 100,000 documents, as in the paper",
        Hub("Skylion007/openwebtext"),
        LAST_100K,
        document="web page",
        unit="file",
        licence="CC0 (packaging)",
    ),
    _hub(
        "wikitext2",
        "WikiText-2, raw: 2 million words of good Wikipedia articles",
        Hub("Salesforce/wikitext", "wikitext-2-raw-v1"),
        detokenizer="wikitext",
        document="line",
        licence="CC-BY-SA-4.0",
    ),
    _hub(
        "wikitext103",
        "WikiText-103, raw: 100 million words of good Wikipedia articles",
        Hub("Salesforce/wikitext", "wikitext-103-raw-v1"),
        detokenizer="wikitext",
        document="line",
        licence="CC-BY-SA-4.0",
    ),
    _hub(
        "ptb",
        "Penn Treebank, 10,000-word vocabulary: sentences of the Wall Street Journal",
        Hub("ptb-text-only/ptb_text_only", revision=PARQUET),
        column="sentence",
        detokenizer="ptb",
        document="sentence",
        licence="LDC user agreement",
    ),
    _hub(
        "lambada",
        "passages of novels whose last word needs the whole passage (OpenAI's version); validation is test",
        Hub("EleutherAI/lambada_openai", "default"),
        {"validation": Part("test"), "test": Part("test")},
        detokenizer="lambada",
        document="passage",
        licence="MIT (packaging)",
    ),
    _hub(
        "ag_news",
        "AG News, titles and descriptions of news; validation is its test split, as in the paper",
        Hub("fancyzhx/ag_news"),
        TEST_TWICE,
        document="news item",
        header=("label", "title", "description"),
        licence="non-commercial",
    ),
    _hub(
        "pubmed",
        "articles of PubMed from Scientific Papers",
        Hub("ccdv/pubmed-summarization", "document"),
        column="article",
        detokenizer="scientific",
        document="article",
    ),
    _hub(
        "arxiv",
        "articles of arXiv from Scientific Papers",
        Hub("ccdv/arxiv-summarization", "document"),
        column="article",
        detokenizer="scientific",
        document="article",
    ),
]
REGISTERED = {info.name: info for info in DATASETS}


def list_datasets() -> list[DatasetInfo]:
    """The registered data sets, `pydocs` first and the others by name."""
    return sorted(DATASETS, key=lambda info: (info is not PYDOCS, info.name))


def read_pydocs() -> Spans:
    """The topics of the running Python's `help`, one a document, in the order of their names."""
    from pydoc_data.topics import topics

    return Spans.of([topics[name] for name in sorted(topics)])


def pydocs_edition() -> str:
    """Which edition of `pydocs` this is."""
    return f"Python {platform.python_version()}"
