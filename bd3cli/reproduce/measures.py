"""What is measured of a trained row, one function a kind of table. Everything is cached by content."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bd3cli.data import PackedSplit, load_split
from bd3cli.data.splits import Split
from bd3cli.errors import InputError
from bd3cli.evaluation import Likelihood
from bd3cli.reproduce.cells import Measurement
from bd3cli.reproduce.context import Context
from bd3cli.reproduce.corpora import Corpus
from bd3cli.reproduce.sampled import length_stats, sample_quality
from bd3cli.reproduce.tables import Row, Table
from bd3cli.runs import Run, read_recipe
from bd3cli.studies.variances import measure_variances, own_scheme

Measured = dict[str, Measurement]


def measure(table: Table, row: Row, runs: list[Path], judge: Path | None, seed: int, context: Context) -> Measured:
    """Every measure of a row under one seed.

    Args:
        runs: the trained run, one for each candidate of a best-of row, none for the data themselves.
        judge: the run that rates samples, where the table has them rated.
    """
    if table.kind == "zero-shot":
        return zero_shot(table, runs[0], context)
    if table.kind == "length-stats":
        return length_stats(table, runs, seed, context)
    if table.kind == "sample-quality":
        assert judge is not None
        return sample_quality(runs[0], judge, seed, context)
    if table.kind == "best-of":
        return best_of(table, row, runs, seed, context)
    return likelihoods(table, runs[0], seed, context)


def likelihoods(table: Table, folder: Path, seed: int, context: Context) -> Measured:
    """Test perplexity, and Var. NELBO under the row's own training objective where the table shows it."""
    found = {"ppl": perplexity(folder, "test", context)}
    if "var_nelbo" in table.measures:
        found["var_nelbo"] = variance(folder, seed, context)
    return found


def best_of(table: Table, row: Row, folders: list[Path], seed: int, context: Context) -> Measured:
    """The candidate with the best validation perplexity, measured on the test set."""
    validation = [perplexity(folder, "validation", context).raw for folder in folders]
    known = [(value, index) for index, value in enumerate(validation) if value is not None]
    if not known:
        return {name: Measurement(None, note="no data: no candidate could be validated") for name in table.measures}
    _, best = min(known)
    note = f"finetuned under {row.candidates[best]['label']}"
    return {
        name: replace(found, note="; ".join(filter(None, (note, found.note))) if name == "ppl" else found.note)
        for name, found in likelihoods(table, folders[best], seed, context).items()
    }


def zero_shot(table: Table, folder: Path, context: Context) -> Measured:
    """Perplexity of each of the table's data sets; one that is the training corpus says so."""
    trained_on = context.corpus(table.corpus)
    found = {}
    for name in table.measures:
        other = context.corpus(name)
        note = ""
        if other.settings == trained_on.settings:
            note = f"{name} is not zero-shot here: {trained_on.source} was trained on"
        try:
            found[name] = replace(perplexity(folder, "test", context, other), note=note)
        except InputError as error:
            found[name] = Measurement(None, note=f"no data: {error}")
    return found


def perplexity(folder: Path, split: Split, context: Context, corpus: Corpus | None = None) -> Measurement:
    """Nats per token of a split of the run's own text or of another corpus, with those of every sequence."""
    wanted, packed = context.scale.sequences, measured_text(folder, split, corpus)

    def now() -> Measured:
        return {"value": of_likelihood(Run.load(folder, checkpoint="last").evaluate(packed, sequences=wanted))}

    key = ["likelihood", folder.name, packed.fingerprint, wanted]

    return context.store.measured(f"likelihood-{folder.name}", key, now)["value"]


def measured_text(folder: Path, split: Split, corpus: Corpus | None = None) -> PackedSplit:
    """A split of the run's own text, or of another corpus packed as the run was trained."""
    recipe = read_recipe(folder)
    config = recipe.data
    if corpus is not None:
        settings = {key.removeprefix("data."): value for key, value in corpus.settings.items()}
        plain: dict[str, Any] = {"train": None, "validation": None, "test": None, "column": None, "max_documents": None}
        config = replace(config, **(plain | {"detokenize": "auto", "document": "auto"} | settings))
    return load_split(config, split, recipe.model.length)


def variance(folder: Path, seed: int, context: Context) -> Measurement:
    """Logarithm of the Var. NELBO under the objective the run was trained with, its loss weight aside.

    Times and masks are those of `seed`: the same ones for all rows, others for another seed, so that an interval over
    seeds covers them. Unclipped times have a heavy tail.
    """
    wanted, split = context.scale.variance_batches, measured_text(folder, "test")

    def now() -> Measured:
        run = Run.load(folder, checkpoint="last")
        recipe = run.require_recipe()
        scheme = own_scheme(run, recipe)
        assert scheme is not None, "a table that shows variances has no ar row"
        everything = list(range(len(split)))
        (row,) = measure_variances(
            run, recipe, split, [scheme], sequences=everything, count=wanted, seed=seed, gradient=False
        )
        return {"value": of_variance(row["var_nelbo"], row["var_nelbo_ci95"])}

    key = ["variance", folder.name, split.fingerprint, wanted, seed]
    return context.store.measured(f"variance-{folder.name}", key, now)["value"]


def of_variance(value: float, ci95: Sequence[float] | None) -> Measurement:
    """A variance as its logarithm, with that of its interval."""
    return Measurement(math.log(value), None if ci95 is None else (math.log(ci95[0]), math.log(ci95[1])))


def of_likelihood(result: Likelihood) -> Measurement:
    sequences = {"nelbo": result.nelbo.tolist(), "tokens": result.tokens.tolist()}
    return Measurement(result.nats_per_token, result.mean.ci95, sequences, effective=result.mean.effective)
