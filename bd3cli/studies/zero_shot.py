"""The same likelihood over data sets a model was not trained on: the paper's suite, or any local file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bd3cli.data import load_split
from bd3cli.data.corpora import dataset_names, is_registered
from bd3cli.data.splits import Split
from bd3cli.errors import InputError, did_you_mean
from bd3cli.evaluation.likelihood import Likelihood
from bd3cli.recipes.settings import DataConfig

if TYPE_CHECKING:
    from bd3cli.runs import Run

__all__ = ["SUITE", "Target", "ZeroShotRow", "policy", "targets", "zeroshot"]

SUITE = ("ptb", "wikitext2", "wikitext103", "lm1b", "lambada", "ag_news", "pubmed", "arxiv")  # the paper's, section 6


@dataclass(frozen=True)
class Target:
    """A data set to measure on: a registered or hub name, or a local copy at `path`."""

    name: str
    path: str | None = None


@dataclass(frozen=True)
class ZeroShotRow:
    """One run on one data set.

    Attributes:
        likelihood: None when the data could not be had.
        data: description of the tokens, empty when there are none.
        reason: why there is no number.
    """

    run: str
    dataset: str
    family: str
    block_size: int
    checkpoint: str
    likelihood: Likelihood | None
    data: Mapping[str, Any]
    reason: str | None = None

    def summary(self) -> dict[str, object]:
        """JSON fields: those of ``eval``, or ``ppl`` null with a ``reason``."""
        where = {
            "run": self.run,
            "dataset": self.dataset,
            "family": self.family,
            "block_size": self.block_size,
            "checkpoint": self.checkpoint,
            "status": "no data" if self.likelihood is None else "measured",
        }
        if self.likelihood is None:
            return {**where, "ppl": None, "ci95": None, "reason": self.reason}
        return {
            **where,
            **self.likelihood.summary(),
            "data": dict(self.data),
            "fingerprint": self.likelihood.fingerprint,
        }


def targets(names: Sequence[str] | None = None, local: Mapping[str, str] | None = None) -> list[Target]:
    """What to measure on: `names` (default: the suite), and every local copy whether named or not.

    Raises:
        InputError: a name that is neither registered, nor on the hub (``org/name``), nor a file; a copy that is
            not there.
    """
    local = dict(local or {})
    for name, copy in local.items():
        if not Path(copy).expanduser().exists():
            raise InputError(f"There is no file or directory {copy} to read {name} from. Check the path.")
    chosen = [*(SUITE if names is None else names), *local]
    out = []
    for name in dict.fromkeys(chosen):
        path = local.get(name)
        if path is None and not is_registered(name):
            if Path(name).expanduser().exists():
                path = name
            elif "/" not in name:
                raise InputError(
                    f"There is no data set {name!r}.{did_you_mean(name, dataset_names())} Choose from "
                    f"{', '.join(dataset_names())}, a hub name org/name, or give a file with --data {name}=PATH."
                )
        out.append(Target(name, path))
    return out


def zeroshot_config(config: DataConfig, target: Target, split: Split) -> DataConfig:
    """The run's tokenizer, packing and context on the target's text, documents and detokenizer."""
    ours = DataConfig()
    return replace(
        config,
        name=target.name,
        split_names=ours.split_names,
        column=None,
        document=ours.document,
        detokenize=ours.detokenize,
        max_documents=None,
        train=target.path if split == "train" else None,
        validation=target.path if split == "validation" else None,
        test=target.path if split == "test" else None,
    )


def policy(split: Split) -> dict[str, str]:
    """What every number of a zero-shot table means, in words."""
    return {
        "split": f"{split} (of lm1b, lambada and ag_news that is their test split); a local file is used whole",
        "detokenizing": "each data set's own detokenizer, as in the literature; none for other files",
        "documents": "rows of tables; lines of registered plain-text copies; other text files whole; EOS after each",
        "context": "contexts packed as each run was trained: its tokenizer, length, packing, and BOS first, given and "
        "not counted; the last incomplete context is dropped when packing wraps",
        "quantity": "perplexity per token of the run's own tokenizer; intervals over sequences; an upper bound "
        "unless exact",
    }


def zeroshot(
    runs: Iterable[Run],
    datasets: Sequence[Target],
    *,
    split: Split = "validation",
    on_row: Callable[[ZeroShotRow], None] | None = None,
    progress: Callable[[str, str, int, int], None] | None = None,
    **options: Any,
) -> list[ZeroShotRow]:
    """Measure every run on every data set; one that cannot be had becomes a row with the reason.

    Args:
        runs: taken one after the other, so a generator keeps one in memory at a time.
        datasets: see `targets`.
        split: the paper's choice is the validation split.
        on_row: called with each row as it is done.
        progress: called with run, data set, sequences done and in all.
        options: of `Run.evaluate`.

    Raises:
        InputError: a run without a recipe, or options that do not fit it.
    """
    rows: list[ZeroShotRow] = []
    for run in runs:
        for target in datasets:
            row = _measure(run, target, split, progress, options)
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return rows


def _measure(
    run: Run,
    target: Target,
    split: Split,
    progress: Callable[[str, str, int, int], None] | None,
    options: dict[str, Any],
) -> ZeroShotRow:
    name = str(run.path)
    who = (name, target.name, run.config.family, run.config.block_size, run.checkpoint)
    recipe = run.require_recipe()
    try:
        packed = load_split(zeroshot_config(recipe.data, target, split), split, recipe.model.length)
        if len(packed) < 2:
            raise InputError(f"{target.name} has fewer than two sequences of {packed.length} tokens")
    except InputError as error:
        return ZeroShotRow(*who, None, {}, str(error).partition(". ")[0].rstrip("."))

    def show(done: int, total: int) -> None:
        if progress is not None:
            progress(name, target.name, done, total)

    result = run.evaluate(packed, **options, progress=show)
    return ZeroShotRow(*who, result, packed.description)
