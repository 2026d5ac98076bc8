"""The text a scale trains and tests on: the paper's corpora, named stand-ins, or slices of the embedded one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bd3cli.data.corpora import dataset_names, find_dataset, is_registered, read_pydocs
from bd3cli.errors import InputError, did_you_mean

SHARES = {
    "lm1b": 0.3, "openwebtext": 0.3, "wikitext2": 0.08, "ptb": 0.06, "lambada": 0.06, "ag_news": 0.06,
    "pubmed": 0.07, "arxiv": 0.07,
}  # fmt: skip
STAND_INS = {"cpu": {"openwebtext": "wikitext2"}}
PARTS = {"train": 0.8, "validation": 0.1, "test": 0.1}
ALIASES = {"wikitext": "wikitext2"}  # the paper's column; WikiText-2 and WikiText-103 share their test set


@dataclass(frozen=True)
class Corpus:
    """Where a corpus of a table really comes from.

    Attributes:
        name: as the table calls it.
        source: what stands behind it, for the report.
        settings: recipe keys of the ``data`` section.
    """

    name: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def find_corpus(name: str, scale: str, given: Mapping[str, str], folder: Path) -> Corpus:
    """The text behind `name` at a scale.

    Args:
        given: local copies by registered name, from ``--data NAME=PATH``.
        folder: where slices of the embedded corpus are written.

    Raises:
        InputError: a local copy for a name that is not registered.
    """
    name = ALIASES.get(name, name)
    for other in given:
        if not is_registered(other):
            raise InputError(f"--data names {other!r}, which is not registered.{did_you_mean(other, dataset_names())}")
    if scale == "smoke":
        return Corpus(name, f"slice of the embedded corpus in place of {name}", slice_settings(name, folder))
    actual = STAND_INS.get(scale, {}).get(name, name)
    source = actual if actual == name else f"{actual} in place of {name}"
    path = given.get(actual)
    if path is None:
        return Corpus(name, source, {"data.name": actual})
    info = find_dataset(actual)
    local = {"data.name": str(Path(path).absolute()), "data.detokenize": info.detokenizer, "data.document": info.unit}
    return Corpus(name, f"{source} (local copy)", local)


def slice_settings(name: str, folder: Path) -> dict[str, Any]:
    """Write the slice of the embedded corpus that stands for `name`, and return the settings that read it.

    A document is a paragraph; slices and their splits share none.
    """
    target = folder / name
    if not (target / "test.jsonl").is_file():
        target.mkdir(parents=True, exist_ok=True)
        paragraphs = slices()[name]
        start = 0.0
        for part, share in PARTS.items():
            chosen = paragraphs[round(start * len(paragraphs)) : round((start + share) * len(paragraphs))]
            start += share
            lines = "".join(json.dumps({"text": text}) + "\n" for text in chosen)
            (target / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    return {"data.name": str(target.absolute())}  # the runs read it from any working directory


def slices() -> dict[str, list[str]]:
    """The paragraphs of the embedded corpus, each once, dealt out by `SHARES`: a topic to whoever lacks most."""
    topics = list(read_pydocs())
    seen: set[str] = set()
    total = sum(map(len, topics))
    lacking = {name: share * total for name, share in SHARES.items()}
    dealt: dict[str, list[str]] = {name: [] for name in SHARES}
    for topic in sorted(topics, key=len, reverse=True):
        poorest = max(lacking, key=lambda name: lacking[name])
        new = [text for text in map(str.strip, topic.split("\n\n")) if text and text not in seen]
        new = list(dict.fromkeys(new))
        seen.update(new)
        dealt[poorest] += new
        lacking[poorest] -= len(topic)
    return dealt
