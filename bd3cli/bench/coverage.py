"""`bench intervals`: how often intervals from a stretch of text cover the value of the whole text.

A text is evaluated once and cut into windows of consecutive sequences. Each window's 95% interval either covers the
value of the whole text or not; the same for the difference of two runs. Beside it stands the interval that takes
sequences for independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bd3cli.errors import InputError
from bd3cli.evaluation import Likelihood, compare, why_not_paired
from bd3cli.evaluation.intervals import Mean, mean_of

FEWEST_WINDOWS = 20
METHOD = "windows of consecutive sequences, none shared, of one evaluation; truth: the value of all sequences"


@dataclass(frozen=True)
class Coverage:
    """How the intervals of the windows of one size did.

    Attributes:
        name: of the run, or of both for their difference.
        window: sequences in a window.
        windows: how many windows.
        truth: nats per token of all sequences.
        covered: share of the windows whose 95% interval holds the truth.
        covered_if_independent: the same of Student's interval over sequences taken for independent.
        width_over_independent: mean width in units of that interval's.
        true_stderr_over_independent: spread of the windows' values over that interval's standard error.
        effective_n: median number of independent sequences that would know as much.
        noted: share of the windows whose interval says that it may be too narrow.
    """

    name: str
    window: int
    windows: int
    truth: float
    covered: float
    covered_if_independent: float
    width_over_independent: float
    true_stderr_over_independent: float
    effective_n: float
    noted: float


def bench_intervals(names: Sequence[str], results: Sequence[Likelihood], windows: Sequence[int]) -> list[Coverage]:
    """Coverage of levels and of paired differences, for windows of several sizes.

    Args:
        names: of the runs.
        results: their likelihoods of the same text, every sequence of it.
        windows: sequences in a window.

    Raises:
        InputError: too little text for a window size, or runs that saw other tokens.
    """
    for other in results[1:]:
        if reason := why_not_paired(results[0], other):
            raise InputError(f"The runs are of {reason}; an interval of their difference needs the same tokens.")
    require_windows(len(results[0].sequences), windows)
    rows = []
    for size in windows:
        count = len(results[0].sequences) // size
        cut = [[part(result, slice(i * size, (i + 1) * size)) for i in range(count)] for result in results]
        for name, whole, parts in zip(names, results, cut, strict=True):
            means = [one.mean for one in parts]
            alone = [mean_of(one.nelbo / one.tokens.mean()) for one in parts]
            rows.append(row(name, size, whole.nats_per_token, means, alone))
        for i, j in combinations(range(len(results)), 2):
            truth = results[i].nats_per_token - results[j].nats_per_token
            pairs = list(zip(cut[i], cut[j], strict=True))
            means = [compare(a, b).nats_per_token for a, b in pairs]
            alone = [mean_of((a.nelbo - b.nelbo) / a.tokens.mean()) for a, b in pairs]
            rows.append(row(f"{names[i]} - {names[j]}", size, truth, means, alone))
    return rows


def require_windows(sequences: int, windows: Sequence[int]) -> None:
    """Refuse windows of which a text of so many sequences has too few to count.

    Raises:
        InputError: with the numbers.
    """
    for size in windows:
        if size < 2:
            raise InputError(f"A window has at least 2 sequences, not {size}.")
        if sequences // size < FEWEST_WINDOWS:
            raise InputError(
                f"{sequences} sequences make {sequences // size} windows of {size}; coverage needs at least "
                f"{FEWEST_WINDOWS}. Use more text or smaller windows."
            )


def part(result: Likelihood, rows: slice) -> Likelihood:
    """The likelihood of some consecutive sequences; its bytes are not counted."""
    return Likelihood(
        nelbo=result.nelbo[rows],
        tokens=result.tokens[rows],
        bytes=0,
        estimator=result.estimator,
        exact=result.exact,
        forward_passes=result.forward_passes,
        sequences=result.sequences[rows],
        fingerprint=result.fingerprint,
        per_seed=result.per_seed[:, rows],
        control=result.control,
    )


def row(name: str, size: int, truth: float, means: list[Mean], alone: list[Mean]) -> Coverage:
    """Coverage and width of the intervals `means`, and of those that take sequences for independent, `alone`."""
    centres = np.array([mean.value for mean in means])
    within = math.sqrt(float(np.mean([mean.stderr**2 for mean in alone])))
    covered = [mean.ci95[0] <= truth <= mean.ci95[1] for mean in means]
    return Coverage(
        name=name,
        window=size,
        windows=len(means),
        truth=truth,
        covered=float(np.mean(covered)),
        covered_if_independent=float(np.mean([m.ci95[0] <= truth <= m.ci95[1] for m in alone])),
        width_over_independent=float(np.mean([m.half_width / a.half_width for m, a in zip(means, alone, strict=True)])),
        true_stderr_over_independent=float(centres.std(ddof=1)) / within,
        effective_n=float(np.median([mean.effective for mean in means])),
        noted=float(np.mean([bool(mean.notes) for mean in means])),
    )
