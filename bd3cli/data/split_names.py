"""Which split a file belongs to, by its name.

The words of a name are its parts between ``.``, ``-``, ``_``, blanks, digits and changes of case; shard numbers,
hashes and words such as ``set`` or ``part`` count for nothing. A word for a split (``train``, ``valid``, ``dev``,
``test``, ...) names it when it stands first or last: ``train-00000-of-00003``, ``wiki.train``, ``corpus_dev``. So does
one that stands elsewhere, when every file of the directory has one: ``europarl.train.en``. Words that merely contain
such letters (``contest``, ``latest``) name nothing. Of directories on the way to a file the outermost that names a
split decides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal, TypeAlias

from bd3cli.data.splits import SPLITS, Split

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "devel": "validation",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
# `eval` is the validation split, or the test split beside a validation split; see `_assign`.
Role: TypeAlias = Split | Literal["eval"]
WORDS: dict[str, frozenset[Role]] = {
    **{word: frozenset[Role]({split}) for word, split in SPLIT_NAMES.items()},
    "eval": frozenset({"eval"}),
    "evaluation": frozenset({"eval"}),
    "development": frozenset({"validation"}),
    "heldout": frozenset({"validation", "test"}),
    "holdout": frozenset({"validation", "test"}),
}
COMMON_ENGLISH = {"development"}  # names a split only where every file has a word for one
FILLERS = {"of", "part", "shard", "chunk", "file", "set", "split", "data", "dataset", "v", "fold"}
HASH = re.compile(r"(?<![0-9a-z])(?=[a-f]*\d)[0-9a-f]{8,}(?![0-9a-z])", re.IGNORECASE)
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
LETTERS = re.compile(r"[^\W\d_]+")
GLUED = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})")


@dataclass(frozen=True)
class Naming:
    """What the names of some files say.

    Attributes:
        splits: the files of each split, in order; empty when they are one collection.
        unclear: files whose names have a word for a split that is not understood, or contradict each other.
        plain: files whose names say nothing although those of others do.
        asides: files of a collection whose names have a word for a split in passing.
    """

    splits: dict[Split, list[PurePath]] = field(default_factory=dict)
    unclear: tuple[PurePath, ...] = ()
    plain: tuple[PurePath, ...] = ()
    asides: tuple[PurePath, ...] = ()


@dataclass(frozen=True)
class _Words:
    """The splits that one part of a path names by its first or last word, and by others; whether it is nothing else."""

    ends: frozenset[Role]
    inside: frozenset[Role]
    only: bool


def read_names(paths: Sequence[PurePath]) -> Naming:
    """What the names of files say of their splits.

    Args:
        paths: relative to the directory that holds them, without the extensions of their formats.
    """
    strong: dict[PurePath, frozenset[Role]] = {}
    weak: dict[PurePath, frozenset[Role]] = {}
    for path in paths:
        strong[path], weak[path] = _roles(path)
    every = {path: strong[path] or weak[path] for path in paths}
    if all(len(roles) == 1 for roles in every.values()):
        return _assign(every)
    paired = _differing_by_a_split(paths)
    if not any(strong.values()) and not paired:
        return Naming(asides=tuple(path for path in paths if weak[path]))
    told = {path: strong[path] or (weak[path] if path in paired else frozenset()) for path in paths}
    named = _assign({path: roles for path, roles in told.items() if len(roles) == 1})
    unclear = [path for path in paths if len(told[path]) > 1 or (path in paired and not told[path])]
    plain = [path for path in paths if not told[path] and path not in paired]
    return Naming(named.splits, (*named.unclear, *unclear), tuple(plain))


def names_a_split(name: str) -> bool:
    """Whether a name is nothing but a word for a split, its numbering aside."""
    return _words(name).only


def _roles(path: PurePath) -> tuple[frozenset[Role], frozenset[Role]]:
    """What a path names by first or last words, and by any others; more than one split is a contradiction."""
    parts = [_words(part) for part in path.parts]
    inside = frozenset[Role]().union(*(part.inside for part in parts))
    for index, part in enumerate(parts):
        if part.ends:
            # What lies in a directory of a split may be called as it likes, save for the very name of another.
            return part.ends.union(*(below.ends for below in parts[index + 1 :] if below.only)), inside
    return frozenset(), inside


def _words(part: str) -> _Words:
    text = re.sub(r"(?i)(held|hold)[-_. ]out", "heldout", HASH.sub(" ", part))
    words = [word.lower() for word in LETTERS.findall(CAMEL.sub(" ", text))]
    words = [word for word in map(_without_filler, words) if word not in FILLERS]
    named = [frozenset() if word in COMMON_ENGLISH and len(words) > 1 else _meaning(word) for word in words]
    ends = named[0] | named[-1] if named else frozenset()
    inside = frozenset[Role]().union(*map(_meaning, words)) - ends
    return _Words(ends, inside, len(words) == 1 and bool(ends))


def _without_filler(word: str) -> str:
    """`trainset` is `train`, `testdata` is `test`."""
    stem = re.sub(r"(set|data|split|file)$", "", word)
    return stem if stem in WORDS else word


def _meaning(word: str) -> frozenset[Role]:
    """The splits a word stands for; several for one made of several, such as `trainval`."""
    if word in WORDS:
        return WORDS[word]
    pieces = GLUED.findall(word)
    return frozenset[Role]().union(*(WORDS[p] for p in pieces)) if pieces and "".join(pieces) == word else frozenset()


def _assign(roles: dict[PurePath, frozenset[Role]]) -> Naming:
    """Files of one role each to splits."""
    by_role: dict[Role, list[PurePath]] = defaultdict(list)
    for path, (role,) in roles.items():
        by_role[role].append(path)
    evaluation = by_role.pop("eval", [])
    free: Split | None = "validation" if not by_role["validation"] else "test" if not by_role["test"] else None
    if evaluation and free:
        by_role[free] = evaluation
    return Naming({s: by_role[s] for s in SPLITS if by_role[s]}, () if free else tuple(evaluation))


def _differing_by_a_split(paths: Iterable[PurePath]) -> set[PurePath]:
    """Files whose names are those of others but for a word for a split, were it inside another word.

    ``mytrainfile`` and ``mytestfile`` are such, and so are ``wikitest`` and ``wiki``.
    """
    alike: dict[str, list[tuple[PurePath, frozenset[Role]]]] = defaultdict(list)
    for path in paths:
        name = re.sub(r"\d+", "0", str(path).lower())
        alike[_bare(name)].append((path, frozenset()))
        for word in GLUED.finditer(name):
            rest = name[: word.start()] + "_" + name[word.end() :]
            if LETTERS.search(rest):
                alike[_bare(rest)].append((path, WORDS[word[0]]))
    found: set[PurePath] = set()
    for group in alike.values():
        if len({roles for _, roles in group}) > 1:
            found |= {path for path, _ in group}
    return found


def _bare(name: str) -> str:
    return re.sub(r"[^\w/]|_", "", name)
