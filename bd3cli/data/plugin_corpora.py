"""The documents of a plugin's data set, looked at before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bd3cli.data.corpora import Corpus
from bd3cli.data.documents import Documents
from bd3cli.data.spans import Spans
from bd3cli.data.splits import SPLITS, Split
from bd3cli.errors import InputError
from bd3cli.faults import PluginError, broken, kind_of, owner_of
from bd3cli.hashing import hash_texts
from bd3cli.plugins import load_plugins, registered


def read_corpus(spec: str, split: Split) -> tuple[Documents, dict[str, Any], dict[str, Any]]:
    """The documents of a split of the data set that `spec` asks for.

    The tokens made of them are cached under a hash of the texts themselves, so that a plugin that gives others, for
    whatever reason, is never served with old ones.

    Returns:
        The documents, what identifies them, and what a run records of them.

    Raises:
        InputError: unknown name or parameter, or no such split.
        PluginError: the plugin gave something else than texts.
    """
    corpus: Corpus = load_plugins().registry["dataset"].make(spec)
    splits = _splits(corpus)
    if split not in splits:
        raise InputError(
            f"Data set {spec!r} has no {split} split, only {', '.join(splits)}. Name a file with data.{split}."
        )
    found = _documents(corpus, corpus.read(split), split)
    used = registered({"dataset": spec})["dataset"]
    source = f"{used['distribution']} {used['version']}" + (f", {corpus.source}" if corpus.source else "")
    facts = {"source": source, "document": corpus.document, "split_policy": "the data set's own"}
    return found, {"content": hash_texts(_texts(corpus, found, split))}, facts


def _splits(corpus: Corpus) -> tuple[Split, ...]:
    if isinstance(corpus.splits, tuple) and corpus.splits and set(corpus.splits) <= set(SPLITS):
        return corpus.splits
    cls = type(corpus)
    owner = owner_of(cls.__module__)
    raise PluginError(
        f"splits of {cls.__qualname__}{f' of {owner}' if owner else ''} is {corpus.splits!r}; it must be a tuple of "
        f"some of {', '.join(map(repr, SPLITS))}."
    )


def _documents(corpus: Corpus, found: Any, split: Split) -> Documents:
    if isinstance(found, Documents):
        return found
    if isinstance(found, str) or not isinstance(found, Sequence):
        wrong = f"returned {kind_of(found)} for {split}; it must return a list of texts, one a document"
        raise broken(type(corpus).read, wrong, type(corpus))
    return Spans.of(list(_texts(corpus, found, split)))


def _texts(corpus: Corpus, texts: Iterable[Any], split: Split) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            wrong = f"returned {kind_of(text)} as document {index} of {split}; every document must be a text"
            raise broken(type(corpus).read, wrong, type(corpus))
        yield text
