"""Measures of generated text: how long its documents are, and how a judge rates it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from bd3cli.data import load_tokenizer, resolve_documents
from bd3cli.recipes.resolve import Resolved
from bd3cli.reproduce.cells import Measurement
from bd3cli.reproduce.tables import Table
from bd3cli.runs import Run
from bd3cli.sampling import SampleSet, generate, make_request
from bd3cli.studies.judges import load_judge
from bd3cli.studies.lengths import Lengths, document_lengths, sample_lengths

if TYPE_CHECKING:
    from bd3cli.reproduce.context import Context

NUCLEUS = 0.9  # of samples that are judged


def length_stats(table: Table, runs: list[Path], seed: int, context: Context) -> dict[str, Measurement]:
    """Median and longest document of the training text (no run), or of samples drawn until EOS."""
    scale = context.scale
    if not runs:
        recipe, text = context.recipe(table.corpus), context.text(table.corpus)
        return context.store.measured(f"lengths-{table.corpus}", ["lengths", text], lambda: _of_data(recipe))
    folder = runs[0]
    key = ["lengths", folder.name, scale.samples, scale.cap, seed]
    return context.store.measured(f"lengths-{folder.name}", key, lambda: _of_samples(folder, seed, context))


def sample_quality(folder: Path, judge: Path, seed: int, context: Context) -> dict[str, Measurement]:
    """Generative perplexity and evaluations of samples of one and of two contexts, and their token entropy."""
    key = ["quality", folder.name, judge.name, context.scale.samples, seed, NUCLEUS]
    return context.store.measured(f"quality-{folder.name}", key, lambda: _quality(folder, judge, seed, context))


def _of_data(resolved: Resolved) -> dict[str, Measurement]:
    config = resolved.recipe.data
    found = document_lengths(config.name, resolve_documents(config, "train"), load_tokenizer(config.tokenizer))
    return _extremes(found, f"{len(found.lengths)} documents")


def _of_samples(folder: Path, seed: int, context: Context) -> dict[str, Measurement]:
    run, scale = Run.load(folder, checkpoint="last"), context.scale
    assert run.tokenizer is not None
    whole = run.config.block_size == run.config.length  # one block: it cannot go beyond its context
    cap = run.config.length * (1 if whole else scale.cap)
    request = make_request(run.model, run.tokenizer, length=cap, stop=run.stop_rule())
    made = generate(run.model, run.tokenizer, request, num=scale.samples, seed=seed * scale.samples)
    found = sample_lengths(folder.name, made.samples, cap)
    return _extremes(found, f"{scale.samples} samples, {found.capped} of them stopped by the cap of {cap} tokens")


def _extremes(found: Lengths, note: str) -> dict[str, Measurement]:
    summary = found.summary()
    return {"median": Measurement(summary["median"], note=note), "max": Measurement(float(summary["max"]), note=note)}


def _quality(folder: Path, judge: Path, seed: int, context: Context) -> dict[str, Measurement]:
    run = Run.load(folder, checkpoint="last")
    length, judging = run.config.length, load_judge(str(judge))
    note = f"{context.scale.samples} samples, nucleus {NUCLEUS}, judged by an ar run of the same budget and text"
    assert run.tokenizer is not None
    one = _samples(run, length, seed, context)
    found = {
        "gen_ppl": Measurement(math.log(judging.judge(one.samples, run.tokenizer).ppl), note=note),
        "nfe": Measurement(_evaluations(one), note=note),
        "entropy": Measurement(one.entropy, note=note),
    }
    traits = run.config.traits
    if run.config.block_size == length and traits.beyond_context is None:
        none = Measurement(None, note=f"no data: {traits.label} cannot go beyond its context")
        return found | {"gen_ppl_2l": none, "nfe_2l": none}
    two = _samples(run, 2 * length, seed, context)
    return found | {
        "gen_ppl_2l": Measurement(math.log(judging.judge(two.samples, run.tokenizer).ppl), note=note),
        "nfe_2l": Measurement(_evaluations(two), note=note),
    }


def _samples(run: Run, length: int, seed: int, context: Context) -> SampleSet:
    assert run.tokenizer is not None
    traits = run.config.traits
    sampler = traits.beyond_context if length > run.config.length else None
    steps = length if traits.needs_time else None  # its sampler follows the noise level, a step a token
    request = make_request(run.model, run.tokenizer, length=length, nucleus=NUCLEUS, steps=steps, sampler=sampler)
    num = context.scale.samples
    return generate(run.model, run.tokenizer, request, num=num, seed=seed * num)


def _evaluations(made: SampleSet) -> float:
    return sum(sample.nfe for sample in made.samples) / len(made.samples)
