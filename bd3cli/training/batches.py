"""What a step trains on. Its sequences are a function of (seed, step), so that a resumed run sees the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bd3cli.diffusion.batch import Batch
from bd3cli.rng import permutation


@dataclass
class DataOrder:
    """A fresh shuffle of all sequences every epoch, cut into batches that may span two epochs.

    Attributes:
        total: sequences in the split.
        batch_size: sequences a step.
        seed: of the shuffles.
    """

    total: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def indices(self, step: int) -> list[int]:
        """Sequence indices of global step `step`, counted from 0."""
        start = step * self.batch_size
        return [self._at(position) for position in range(start, start + self.batch_size)]

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self.total)
        if epoch != self._epoch:
            self._order = permutation(self.total, self.seed, "order", epoch)
            self._epoch = epoch
        return int(self._order[offset])


@dataclass(frozen=True)
class StepData:
    """What one step trains on.

    Attributes:
        indices: sequences of the whole batch, in order; each process has consecutive ones.
        predicted: tokens the whole batch predicts, which the loss is divided by.
        batches: one for each micro-batch of this process.
    """

    indices: list[int]
    predicted: int
    batches: list[Batch]
