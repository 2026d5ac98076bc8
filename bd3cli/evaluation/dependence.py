"""Estimate how far the sequences of a text depend on their neighbours, from the values themselves.

Contexts cut from one text are not independent: those of a document share its subject, and what is hard about it. A
mean over them is less certain than their spread suggests, by a factor that the spectrum of the values at its lowest
frequencies gives: for values r_1..r_T in the order of the text and orthonormal cosines c_j of j half-periods,

    Var(sum r) / T  ~  the mean of (c_j . r)^2 over the lowest nu frequencies j = 1..nu,

with nu degrees of freedom (the equal-weighted cosine estimator: Müller 2004; Lazarus, Lewis, Stock and Watson 2018).
With nu = T - 1, all frequencies, it is the usual variance with the usual T - 1 degrees of freedom. Independent values
have a flat spectrum; text has one that rises towards low frequencies and levels off at periods of some documents.

How many frequencies are on that level part is decided by the values: the spectrum s (1 + g / sqrt(1 + (j / c)^2)) is
fitted by Whittle's likelihood, and nu is its corner c where that describes them better than a flat spectrum does by
Akaike's criterion, else T - 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft

Floats = npt.NDArray[np.float64]

FEWEST = 3  # frequencies averaged at the least: Student's t with 3 degrees of freedom is 3.18
AKAIKE = 4.0  # twice the two parameters g and c that the risen spectrum has more than the flat one
BIN = 1.1  # the lowest frequencies stand alone, higher ones are taken together up to this ratio


def periodogram(residuals: npt.ArrayLike) -> Floats:
    """Squared cosine coefficients [T - 1] of values [T] with mean zero, from the longest period to the shortest.

    They add up to the sum of the squared values.
    """
    power: Floats = np.square(fft.dct(np.asarray(residuals, dtype=np.float64), type=2, norm="ortho")[1:])
    return power


def frequencies(power: Floats) -> int:
    """How many of the lowest frequencies to average: 3 to all of them.

    Args:
        power: [T - 1] a `periodogram`.
    """
    total = len(power)
    if total <= FEWEST or not power.any():
        return total
    edges = np.unique(np.round(BIN ** np.arange(np.log(total + 1) / np.log(BIN) + 1)).astype(int))
    edges = np.append(edges[edges <= total], total + 1)
    counts = np.diff(edges).astype(np.float64)  # [K] bins
    levels = np.add.reduceat(power, edges[:-1] - 1) / counts
    middles = (edges[:-1] + edges[1:] - 1) / 2
    corners = 2.0 ** np.arange(0, np.log2(total) - 1, 0.5)  # [C]
    gains = 2.0 ** np.arange(-1, 11)  # [G]
    rise = 1 / np.sqrt(1 + (middles / corners[:, None]) ** 2)
    shapes = 1 + gains[:, None] * rise[:, None]  # [C, G, K]
    scales = (counts * levels / shapes).sum(-1) / total
    deviances = total * np.log(scales) + (counts * np.log(shapes)).sum(-1)
    flat = total * np.log(power.mean())
    best = np.unravel_index(deviances.argmin(), deviances.shape)
    if flat - deviances[best] <= AKAIKE:
        return total
    return min(max(round(float(corners[best[0]])), FEWEST), total)
