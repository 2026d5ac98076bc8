"""Means with an interval: ratios of sums over sequences, and means over repeats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats


@dataclass(frozen=True)
class Mean:
    """A mean and how well it is known.

    Attributes:
        value: the estimate.
        stderr: its standard error.
        n: independent items it rests on; Student's t has n - 1 degrees of freedom.
    """

    value: float
    stderr: float
    n: int

    @property
    def ci95(self) -> tuple[float, float]:
        """95% interval, Student's t."""
        half = float(stats.t.ppf(0.975, self.n - 1)) * self.stderr
        return self.value - half, self.value + half

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the hypothesis that the true mean is zero; 1 when all items are zero."""
        if self.stderr == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.value / self.stderr), self.n - 1))


def ratio_of_sums(numerator: npt.NDArray[np.floating], denominator: npt.NDArray[np.integer]) -> Mean:
    """sum(numerator) / sum(denominator) over items, its standard error by linearisation (Cochran 1977, 6.4).

    With equal denominators this is the mean of the quotients with its usual standard error.

    Args:
        numerator: [n] for example nats of each sequence.
        denominator: [n] for example its tokens.
    """
    n, total = len(numerator), float(denominator.sum())
    value = float(numerator.sum()) / total
    residual = numerator - value * denominator
    return Mean(value, math.sqrt(n / (n - 1) * float(np.square(residual).sum())) / total, n)


def mean_of(values: npt.ArrayLike) -> Mean:
    """The mean of independent repeats [n]."""
    array = np.asarray(values, dtype=np.float64)
    return Mean(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array)), len(array))
