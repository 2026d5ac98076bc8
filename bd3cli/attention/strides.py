"""Regularly spaced runs of rows, by which the parts of an attention name their queries and keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Runs:
    """`count` runs of `width` consecutive rows, `stride` rows apart."""

    start: int
    count: int
    stride: int
    width: int

    def along(self, x: Tensor, dim: int) -> Tensor:
        """A view of x with the runs in dimension `dim` and their rows in a new last dimension."""
        extent = (self.count - 1) * self.stride + self.width
        return x.narrow(dim, self.start, extent).unfold(dim, self.width, max(self.stride, 1))

    def batch(self, x: Tensor) -> Tensor:
        """The runs of contiguous x [G, rows, D] as a view [G * count, width, D].

        There is one only if G or `count` is 1, or the runs are spaced evenly over all the rows.
        """
        return self.along(x, 1).mT.view(-1, self.width, x.shape[2])

    def one(self, i: int) -> Runs:
        """The i-th run alone."""
        return Runs(self.start + i * self.stride, 1, 0, self.width)

    def within(self, start: int, width: int) -> Runs:
        """Rows [start, start + width) of every run."""
        return Runs(self.start + start, self.count, self.stride, width)

    def scaled(self, factor: int) -> Runs:
        """The same runs where every row has become `factor` rows."""
        return Runs(self.start * factor, self.count, self.stride * factor, self.width * factor)


def halves(length: int, shortest: int) -> Iterator[tuple[Runs, Runs]]:
    """Odd runs of S tokens and the even runs before them, S = shortest, 2 * shortest, ..., as (queries, keys)."""
    run = shortest
    while run < length:
        pairs, rest = divmod(length, 2 * run)
        if pairs:
            yield Runs(run, pairs, 2 * run, run), Runs(0, pairs, 2 * run, run)
        if rest > run:
            yield Runs(length - rest + run, 1, 0, rest - run), Runs(length - rest, 1, 0, run)
        run *= 2
