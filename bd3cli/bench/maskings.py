"""`bench maskings`: train the same network on the same tokens under several ways to draw masks.

Everything but the masks is equal: initialisation, data order and the randomness behind the masks follow from
the seed alone, so runs of one seed are compared in pairs. Each run is an ordinary run directory,
``OUT/block-4/masking-count/seed-0``; a comparison that was stopped goes on with the run it was at.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from bd3cli.bench.timing import Environment, environment
from bd3cli.diffusion.objective import Objective
from bd3cli.diffusion.scheme import Scheme, parse_schemes
from bd3cli.errors import InputError
from bd3cli.files import write_whole
from bd3cli.recipes.resolve import Resolved, known_keys, layered
from bd3cli.records import read_json
from bd3cli.rng import STREAM_VERSION
from bd3cli.runs import Run
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RECORD, RunDirectory
from bd3cli.training.loop import train
from bd3cli.training.reporter import Reporter
from bd3cli.training.resume import resume_recipe

COMPARISON, TEST = "comparison.json", "test.json"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        schemes: semicolon-separated, see `bd3cli.diffusion.scheme`; the first is what the others are compared to.
        seeds: how many, 0 and up.
        test_sequences, test_draws: size of the final evaluation, the same for every run.
    """

    schemes: str
    block_sizes: tuple[int, ...]
    seeds: int
    test_sequences: int
    test_draws: int

    def arms(self, block_size: int) -> list[Scheme]:
        return parse_schemes(self.schemes, block_size)


class Compared(TypedDict):
    """A `Comparison` as plain values."""

    schemes: str
    block_sizes: list[int]
    seeds: int
    test_sequences: int
    test_draws: int


class _Begun(TypedDict):
    comparison: Compared
    recipe: dict[str, object]
    environment: Environment


class ComparisonFile(_Begun, total=False):
    """``comparison.json``: what is compared, with which recipe, where. Older ones have streams of version 1."""

    stream_version: int


@dataclass(frozen=True)
class Entry:
    """One run of a comparison."""

    folder: Path
    block_size: int
    scheme: Scheme
    seed: int


def entries(out: Path, comparison: Comparison) -> list[Entry]:
    """All runs, seed by seed, so that a comparison cut short has whole seeds."""
    return [
        Entry(out / f"block-{size}" / _slug(scheme.name) / f"seed-{seed}", size, scheme, seed)
        for seed in range(comparison.seeds)
        for size in comparison.block_sizes
        for scheme in comparison.arms(size)
    ]


def run_comparison(
    base: Resolved,
    comparison: Comparison,
    out: Path,
    *,
    argv: list[str],
    reporter: Callable[[Path], Reporter],
    notice: Callable[[str], None],
) -> int | None:
    """Train and test whatever is not there yet.

    Returns:
        The number of the signal that stopped it, or None when everything is done.

    Raises:
        InputError: a scheme that cannot be trained, or `out` belongs to another comparison.
    """
    todo = entries(out, comparison)
    recipes = [_resolved(base, entry) for entry in todo]
    for resolved in recipes:  # refuse what cannot be trained before the first run starts
        Objective.build(resolved.recipe.objective, 0, resolved.recipe.block_size)
    claim(out, base, comparison)
    for i, (entry, resolved) in enumerate(zip(todo, recipes, strict=True)):
        if (entry.folder / TEST).is_file():
            continue
        notice(f"run {i + 1} of {len(todo)}: block size {entry.block_size}, {entry.scheme.name}, seed {entry.seed}")
        stopped = _train(resolved, entry.folder, argv, reporter(entry.folder))
        if stopped is not None:
            return stopped
        _test(entry.folder, comparison)
    return None


def claim(out: Path, base: Resolved, comparison: Comparison) -> None:
    """Note what is compared in `out`, or see that it is the same as before; runs may be added.

    Raises:
        InputError: another recipe, or `out` is something else.
    """
    values = json.loads(json.dumps(base.values()))
    path = out / COMPARISON
    if path.is_file():
        document = _read(path)
        # keys that came after the comparison was begun had their defaults then
        before = {key: setting.default for key, setting in known_keys().items()} | document["recipe"]
        changed = [key for key in values if values[key] != before.get(key)]
        if (drawn := document.get("stream_version", 1)) != STREAM_VERSION:
            raise InputError(
                f"{out} compares runs whose random streams have version {drawn}; those of version {STREAM_VERSION} "
                "do not share masks and order with them. Use another OUT, or the bd3cli that began it."
            )
        if changed:
            listed = ", ".join(f"{key} ({before.get(key)!r} -> {values[key]!r})" for key in changed)
            raise InputError(f"{out} compares runs of another recipe: {listed}. Leave these out, or use another OUT.")
    else:
        RunDirectory(out).refuse_unfit()
        out.mkdir(parents=True, exist_ok=True)
    now = {
        "comparison": asdict(comparison), "recipe": values, "stream_version": STREAM_VERSION,
        "environment": _environment(),
    }  # fmt: skip
    write_whole(path, json.dumps(now, indent=1) + "\n")


def read_comparison(out: Path) -> tuple[Comparison, ComparisonFile]:
    """What `out` compares, and the whole document.

    Raises:
        InputError: there is no comparison.
    """
    document = _read(out / COMPARISON)
    known = document["comparison"]
    compared = Comparison(
        known["schemes"], tuple(known["block_sizes"]), known["seeds"], known["test_sequences"], known["test_draws"]
    )
    return compared, document


def _resolved(base: Resolved, entry: Entry) -> Resolved:
    scheme, source = entry.scheme, f"arm {entry.scheme.name}"
    options = {
        "objective.masking": (scheme.masking, source),
        "objective.schedule": (scheme.schedule, source),
        "objective.clip": (scheme.clip or "none", source),
        "objective.block_size": (entry.block_size, source),
        "seed": (entry.seed, source),
    }
    return layered(base.recipe, base.sources, options, ())


def _train(resolved: Resolved, folder: Path, argv: list[str], reporter: Reporter) -> int | None:
    if (folder / RECORD).is_file():
        if RunDirectory(folder).read_record().status == "finished":
            return None
        if CheckpointStore(folder / "checkpoints").names():
            again = resume_recipe(folder, None, {}, [])
            return train(again, folder, argv=argv, resume=True, reporter=reporter).signal
        shutil.rmtree(folder)  # it was killed before its first checkpoint
    return train(resolved, folder, argv=argv, reporter=reporter).signal


def _test(folder: Path, comparison: Comparison) -> None:
    """Likelihood of the test split under the weights of the last step, on the same sequences and masks for all."""
    run = Run.load(folder, checkpoint="last")
    result = run.evaluate(
        run.split("test"), estimator="count", draws=comparison.test_draws, sequences=comparison.test_sequences, seed=0
    )
    write_whole(folder / TEST, json.dumps(result.summary(), indent=1) + "\n")


def _read(path: Path) -> ComparisonFile:
    try:
        return read_json(ComparisonFile, path)
    except InputError as error:
        raise InputError(f"{error} Give a directory of `bd3cli bench maskings`.") from error


def _environment() -> Environment:
    found = environment()
    del found["method"]
    return found


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
