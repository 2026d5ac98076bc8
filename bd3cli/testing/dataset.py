"""The laws of a data set: texts, the same ones whenever they are read, none of them in two splits."""

from __future__ import annotations

from collections.abc import Iterator

from bd3cli.data.corpora import find_dataset
from bd3cli.data.overlap import TOLERATED
from bd3cli.data.plugin_corpora import read_corpus
from bd3cli.hashing import text_key
from bd3cli.testing.law import Law, Laws, Outcome, run_laws


def check_dataset(spec: str) -> list[Law]:
    """Check every law of an installed plugin's data set.

    Args:
        spec: its name, or ``"name:key=value"``.
    """
    return run_laws(spec, LAWS)


def described(spec: str) -> Outcome:
    """The class says in its docstring what it is."""
    info = find_dataset(spec)
    return bool(info.description), info.description or "write what it is into the first line of the class's docstring"


def texts(spec: str) -> Outcome:
    """Every split has text."""
    sizes = {}
    for split in find_dataset(spec).splits:
        documents, _, _ = read_corpus(spec, split)
        sizes[split] = sum(1 for text in documents if text.strip())
    empty = [split for split, size in sizes.items() if not size]
    told = ", ".join(f"{size} documents of {split}" for split, size in sizes.items())
    return not empty, f"no text in {' and '.join(empty)}: leave it out of `splits`" if empty else told


def pure(spec: str) -> Outcome:
    """Reading again gives the same texts."""
    for split in find_dataset(spec).splits:
        first, second = (read_corpus(spec, split)[1] for _ in range(2))
        if first != second:
            return False, f"{split} is other text when it is read again: seed what is random, sort what a disk lists"
    return True, "read twice, every split is the same"


def apart(spec: str) -> Outcome:
    """Hardly any held-out text stands in the training text as a whole document."""
    splits = find_dataset(spec).splits
    if "train" not in splits:
        return True, "it has no training split"
    seen = {key for key, _ in _keys(spec, "train")}
    worst = 0.0
    for split in (other for other in splits if other != "train"):
        sizes = list(_keys(spec, split))
        share = sum(size for key, size in sizes if key in seen) / max(1, sum(size for _, size in sizes))
        worst = max(worst, share)
        if share > TOLERATED:
            return False, f"{share:.1%} of {split} are documents of train: divide the texts, not their order"
    return True, f"at most {worst:.1%} of a held-out split are documents of train"


def _keys(spec: str, split: str) -> Iterator[tuple[int, int]]:
    """A key and the length of every document."""
    documents, _, _ = read_corpus(spec, split)  # type: ignore[arg-type]
    return ((text_key(text), len(text)) for text in documents)


LAWS: Laws[str] = (("described", described), ("texts", texts), ("pure", pure), ("apart", apart))
