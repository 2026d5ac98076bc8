"""`bench eval`: Monte Carlo error of the estimators, on the same sequences with equal forward passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bd3cli.bench.timing import environment
from bd3cli.data.splits import Split
from bd3cli.runs import Run


def bench_evaluate(
    run: Run, *, split: Split = "test", sequences: int = 256, draws: int = 1, seeds: int = 20
) -> dict[str, Any]:
    """Standard deviation over `seeds` of each estimator's nats per token, and what it means for a perplexity.

    ``passes_for_1_percent`` is the number of forward passes a sequence after which one Monte Carlo standard
    error of the perplexity of these sequences is 1%.
    """
    packed = run.split(split)
    found = {}
    for name in ("count", "uniform"):
        values = [
            run.evaluate(packed, estimator=name, draws=draws, sequences=sequences, seed=seed).nats_per_token
            for seed in range(seeds)
        ]
        stderr = float(np.std(values, ddof=1))
        found[name] = {
            "nats_per_token": float(np.mean(values)),
            "ci95": [float(np.mean(values) + s * 1.96 * stderr / math.sqrt(seeds)) for s in (-1, 1)],
            "mc_stderr": stderr,
            "passes_for_1_percent": draws * (stderr / 0.01) ** 2,
        }
    ratio = found["uniform"]["mc_stderr"] / found["count"]["mc_stderr"]  # type: ignore[operator]
    return {
        "run": str(run.path),
        "block_size": run.config.block_size,
        "split": split,
        "fingerprint": packed.fingerprint,
        "sequences": sequences,
        "forward_passes": draws,
        "seeds": seeds,
        "estimators": found,
        "ratio": ratio,
        # relative error of a ratio of two standard deviations from `seeds` draws each
        "ratio_relative_error": math.sqrt(1 / (seeds - 1)),
        "environment": environment()
        | {"method": "standard deviation over seeds of nats per token; same sequences, equal forward passes"},
    }
