"""`bench eval`: Monte Carlo error of the estimators, on the same sequences with equal forward passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bd3cli.bench.timing import environment
from bd3cli.data.splits import Split
from bd3cli.evaluation import Likelihood
from bd3cli.evaluation.intervals import mean_of
from bd3cli.runs import Run

ALTERNATIVES = {"uniform": ("uniform", "none"), "count": ("count", "none"), "count+ngram": ("count", "ngram")}
METHOD = (
    "standard deviation of nats per token over seeds, same sequences, equal forward passes; by sequence: from the "
    "variances of single sequences over seeds, added up as if they were independent"
)


def bench_evaluate(
    run: Run, *, split: Split = "test", sequences: int = 256, draws: int = 1, seeds: int = 20
) -> dict[str, Any]:
    """Each estimator's Monte Carlo error over `seeds`, and what it means for a perplexity of these sequences.

    ``passes_for_1_percent`` is the number of forward passes a sequence after which one Monte Carlo standard
    error of the perplexity is 1%. The error is given twice: from the totals of the seeds, which sees the
    stratification over sequences but is itself known to one part in sqrt(2 (seeds - 1)) only, and from the
    sequences' own variances, which is known much better.
    """
    packed = run.split(split)
    found = {
        name: _errors(
            run.evaluate(packed, estimator=estimator, control=control, draws=draws, sequences=sequences, seeds=seeds),
            draws,
        )
        for name, (estimator, control) in ALTERNATIVES.items()
    }
    noisy = found["uniform"]
    ratios = {
        name: {key: noisy[key] / errors[key] for key in ("mc_stderr", "mc_stderr_by_sequence")}
        for name, errors in found.items()
        if name != "uniform"
    }
    return {
        "run": str(run.path),
        "block_size": run.config.block_size,
        "split": split,
        "fingerprint": packed.fingerprint,
        "sequences": sequences,
        "forward_passes": draws,
        "seeds": seeds,
        "estimators": found,
        "ratio": ratios["count"]["mc_stderr"],
        "ratios": ratios,
        # relative error of a ratio of two standard deviations from `seeds` draws each
        "ratio_relative_error": math.sqrt(1 / (seeds - 1)),
        "environment": environment() | {"method": METHOD},
    }


def _errors(result: Likelihood, draws: int) -> dict[str, Any]:
    """Mean and Monte Carlo error of one seed's estimate."""
    totals = result.per_seed.sum(1) / result.tokens.sum()
    mean = mean_of(totals)
    single = float(np.sqrt(result.per_seed.var(0, ddof=1).sum()) / result.tokens.sum())
    stderr = float(totals.std(ddof=1))
    return {
        "nats_per_token": mean.value,
        "ci95": list(mean.ci95),
        "mc_stderr": stderr,
        "mc_stderr_by_sequence": single,
        "passes_for_1_percent": draws * (stderr / 0.01) ** 2,
    }
