"""How noisy the training loss and its gradient are under one way to draw masks, for a given network.

**Var. NELBO**, as the paper's tables define it: in a batch, each block has the mean over its L' positions of
w * -log p (nothing where nothing is masked); the sample variance of that over all blocks of the batch is
averaged over batches. Blocks draw their masks independently here, so that this is the variance of one block's
loss, data and masks together; training stratifies its times over a batch.

**Gradient variance** (the paper's equation 10): the expected squared distance of a batch's gradient from the
mean gradient, for batches as training draws them, stratified times included. It is estimated from independent
pairs of batches, as half the squared distance within a pair, which has the same expectation.

Both are measured under the objective asked about: its schedule, clip and masking, without a loss weight. A
clipped objective has another mean too; the variance over the squared mean says how noisy it is at that scale.

Shapes: B sequences, N blocks, M batches, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bd3cli.data import PackedSplit
from bd3cli.diffusion.batch import Batch, block_sums, maskable, token_nll, weighted_nll
from bd3cli.diffusion.objective import Objective
from bd3cli.errors import InputError
from bd3cli.evaluation.intervals import Mean, mean_of
from bd3cli.maskings import MaskNoise
from bd3cli.model import Transformer, evaluating
from bd3cli.rng import permutation, uniform

MOST_BATCHES = 100
AT_END = 1.0  # schedules that move with training are taken at its end

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """A variance, estimated once a batch or once a pair of batches.

    Attributes:
        variances: [M] independent unbiased estimates.
        squared_means: [M] unbiased estimates of the squared mean that belongs to it.
    """

    variances: Floats
    squared_means: Floats

    @property
    def value(self) -> float:
        return float(self.variances.mean())

    @property
    def mean(self) -> Mean | None:
        """With its standard error; None when there is one estimate only."""
        return mean_of(self.variances) if len(self.variances) > 1 else None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Its 95% interval, which is positive; None when there is one estimate only."""
        return None if self.mean is None else self.mean.positive_ci95

    @property
    def relative(self) -> float | None:
        """Variance over squared mean; None where the mean is not distinguishable from zero."""
        squared = float(self.squared_means.mean())
        return self.value / squared if squared > 0 else None


@dataclass(frozen=True)
class Batches:
    """Which sequences are measured: the same batches, in the same order, for every objective.

    Attributes:
        split: where they come from.
        indices: [M] lists of equally many sequences.
        seed: of the masks.
    """

    split: PackedSplit
    indices: list[list[int]]
    seed: int

    @staticmethod
    def choose(split: PackedSplit, sequences: list[int], batch_size: int, count: int, seed: int) -> Batches:
        """Up to `count` batches of `sequences` in a fixed random order; smaller ones when there are not enough.

        Raises:
            InputError: fewer than two sequences.
        """
        if len(sequences) < 2:
            raise InputError(f"A variance needs at least 2 sequences, not {len(sequences)}. Raise --sequences.")
        size = min(batch_size, len(sequences))
        order = [sequences[i] for i in permutation(len(sequences), "variance").tolist()]
        found = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        return Batches(split, found[:count], seed)

    def tokens(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number, token ids [B, L] and validity [B, L] of every batch."""
        for i, chosen in enumerate(self.indices):
            yield i, torch.from_numpy(self.split.tokens(chosen)), torch.from_numpy(self.split.valid(chosen))


def nelbo_variance(model: Transformer, objective: Objective, batches: Batches, progress: float = AT_END) -> Spread:
    """Var. NELBO of `model` under `objective`, in squared nats; one estimate a batch.

    Args:
        progress: share of the training steps done, for schedules that move.
    """
    variances, squares = [], []
    with evaluating(model), torch.inference_mode():
        for i, tokens, valid in batches.tokens():
            noise = independent_noise(*tokens.shape, objective.block_size, batches.seed, i)
            batch = objective.batch(tokens, valid, noise, progress)
            loss = block_losses(model, batch, objective.block_size)[_present(objective, valid)]
            if len(loss) < 2:
                raise InputError("A batch has a single block, which has no variance. Raise the batch size.")
            variance = float(loss.var())
            variances.append(variance)
            squares.append(float(loss.mean()) ** 2 - variance / len(loss))
    return Spread(np.array(variances), np.array(squares))


def gradient_variance(
    model: Transformer, objective: Objective, batches: Batches, progress: float = AT_END
) -> Spread | None:
    """Variance of the gradient of the loss per predicted token, of all parameters; one estimate a pair of batches.

    It belongs to the batch size it was measured at, and halves when that doubles. None when there is no pair.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    variances, products, first = [], [], None
    with evaluating(model):
        for i, tokens, valid in batches.tokens():
            noise = MaskNoise.draw(*tokens.shape, objective.block_size, batches.seed, "gradient variance", i)
            batch = objective.batch(tokens, valid, noise, progress).to(_device(model))
            loss = weighted_nll(model, batch)[0] / int(maskable(valid).sum())
            parts = torch.autograd.grad(loss, parameters, allow_unused=True)
            gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, parts, strict=True)]
            if first is None:
                first = gradient
                continue
            variances.append(_sum(lambda a, b: (a - b).square(), first, gradient) / 2)
            products.append(_sum(torch.mul, first, gradient))
            first = None
    return Spread(np.array(variances), np.array(products)) if variances else None


def block_losses(model: Transformer, batch: Batch, block_size: int) -> Tensor:
    """w * -log p of every block, the mean over its positions: [B, N] float64 nats on the CPU; no gradient."""
    moved = batch.to(_device(model))
    return (block_sums(token_nll(model, moved) * moved.weight, moved, block_size) / block_size).cpu()


def independent_noise(batch: int, length: int, block_size: int, *key: int | str) -> MaskNoise:
    """Noise whose times are independent between blocks."""
    blocks = (batch, length // block_size)
    return MaskNoise(
        time=uniform(blocks, *key, "independent time"),
        count=uniform(blocks, *key, "independent count"),
        position=uniform((batch, length), *key, "independent position"),
        level=uniform((batch,), *key, "independent level"),
    )


def _present(objective: Objective, valid: Tensor) -> Tensor:
    """Blocks [B, N] in which something can be masked."""
    present: Tensor = maskable(valid).unflatten(1, (-1, objective.block_size)).any(-1)
    return present


def _device(model: Transformer) -> torch.device:
    return next(model.parameters()).device


def _sum(of: Callable[[Tensor, Tensor], Tensor], one: list[Tensor], other: list[Tensor]) -> float:
    return float(sum(of(a, b).double().sum() for a, b in zip(one, other, strict=True)))
