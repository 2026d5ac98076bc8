"""Means with an interval: ratios of sums over the sequences of a text, and means over independent repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from scipy import stats

from bd3cli.evaluation.dependence import FEWEST, Floats, frequencies, periodogram

FEW = 32  # sequences; with fewer, dependence between them cannot be seen
HEAVY = 20.0  # kurtosis; nats of sequences have 3 to 11


class Basis(TypedDict):
    """What an interval rests on."""

    effective_n: float
    interval_df: float
    interval_notes: list[str]


@dataclass(frozen=True)
class Mean:
    """A mean and how well it is known.

    Attributes:
        value: the estimate.
        stderr: its standard error.
        n: items it rests on.
        df: degrees of freedom of Student's t, n - 1 where the items are independent with light tails.
        effective: how many independent items would give this standard error; at most n.
        notes: why the interval may still be too narrow, in words.
    """

    value: float
    stderr: float
    n: int
    df: float
    effective: float
    notes: tuple[str, ...] = ()

    @property
    def half_width(self) -> float:
        """Half of the 95% interval."""
        return float(stats.t.ppf(0.975, self.df)) * self.stderr

    @property
    def ci95(self) -> tuple[float, float]:
        """95% interval, Student's t."""
        return self.value - self.half_width, self.value + self.half_width

    @property
    def positive_ci95(self) -> tuple[float, float]:
        """The 95% interval of a positive quantity such as a variance: that of its logarithm, by the delta method."""
        if self.value <= 0:
            return self.ci95
        relative = self.half_width / self.value
        return self.value * math.exp(-relative), self.value * bounded_exp(relative)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the hypothesis that the true mean is zero; 1 when all items are zero."""
        if self.stderr == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.value / self.stderr), self.df))

    def basis(self) -> Basis:
        """JSON fields that say what the interval rests on."""
        return {"effective_n": self.effective, "interval_df": self.df, "interval_notes": list(self.notes)}


def ratio_of_sums(numerator: npt.ArrayLike, denominator: npt.ArrayLike, beside: Sequence[npt.ArrayLike] = ()) -> Mean:
    """sum(numerator) / sum(denominator) over the sequences of a text, in the order of the text.

    Its standard error is that of the linearised ratio (Cochran 1977, 6.4), with the dependence of neighbouring
    sequences (`bd3cli.evaluation.dependence`). It is never below what independent sequences would have.

    Args:
        numerator: [n] for example nats of each sequence.
        denominator: [n] for example its tokens.
        beside: more numerators [n] of the same text, whose dependence counts too: for a difference its two terms,
            which show how far the text's documents reach where the difference hides it in noise.
    """
    over, under = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    residual, total = _residual(over, under), float(under.sum())
    n, power = len(over), periodogram(residual)
    lowest = min(frequencies(periodogram(_residual(np.asarray(one, np.float64), under))) for one in (*beside, over))
    alone = float(power.mean())
    unit = max(alone, float(power[:lowest].mean()))
    df, notes = _degrees(residual, lowest, "sequences")
    if n < FEW:
        notes = (*notes, f"{n} sequences are too few to see how far they depend on each other")
    elif lowest <= FEWEST:
        notes = (*notes, "sequences depend on each other about as far as this text reaches: more text would tell")
    effective = n * alone / unit if unit else float(n)
    return Mean(float(over.sum()) / total, math.sqrt(n * unit) / total, n, df, effective, notes)


def mean_of(values: npt.ArrayLike) -> Mean:
    """The mean of independent repeats [n]."""
    array = np.asarray(values, dtype=np.float64)
    n, value = len(array), float(array.mean())
    df, notes = _degrees(array - value, n - 1, "repeats")
    return Mean(value, float(array.std(ddof=1)) / math.sqrt(n), n, df, n, notes)


def bounded_exp(nats: float) -> float:
    """exp, finite for a hopeless model too."""
    return math.exp(min(nats, 700.0))


def _residual(over: Floats, under: Floats) -> Floats:
    residual: Floats = over - over.sum() / under.sum() * under
    return residual


def _degrees(residual: Floats, df: int, items: str) -> tuple[float, tuple[str, ...]]:
    """Degrees of freedom, fewer where a heavy tail makes the standard error itself uncertain; and a note of it.

    A sample variance of n values of kurtosis k has the relative variance (k - 1) / n, as that of 2 n / (k - 1)
    degrees of freedom has.
    """
    n, square = len(residual), float(np.square(residual).mean())
    kurtosis = float((residual**4).mean()) / square**2 if square else 0.0
    if kurtosis <= min(HEAVY, max(6.0, n / 3)):
        return float(df), ()
    note = f"a few of the {n} {items} make most of the spread (kurtosis {kurtosis:.0f}): heavy tail"
    return min(float(df), 2 * n / (kurtosis - 1)), (note,)
