"""The laws of maskings, checked by enumerating every mask of a small block.

The NELBO of a block with n maskable tokens is a sum over its non-empty masks M of 1 / (k C(n, k)) times the
loss of the masked tokens, k = |M|: a uniform count k, weight n / k, and a uniform k-subset. A masking is
therefore unbiased for every network exactly if the mean of its weight over the draws that give M is that
coefficient, for every M. The left side is integrated over the masking's noise on a jittered grid.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bd3cli.maskings import MaskContext, MaskDraw, Masking, MaskNoise, Observation
from bd3cli.plain import from_plain, to_plain
from bd3cli.rng import uniform
from bd3cli.schedules.builtin import Square
from bd3cli.schedules.noise import Noise
from bd3cli.testing.law import Law, Laws, Outcome, run_laws
from bd3cli.testing.tensors import pickles

BLOCK = 3


@dataclass(frozen=True)
class Grid:
    """How finely a masking is averaged over its noise: cells of each variable, repeated with other jitters.

    Attributes:
        deviations: of the replicates' mean from the law, in standard errors, that are no coincidence any more.
    """

    times: int
    positions: int
    replicates: int
    deviations: float


FINE = Grid(times=60, positions=12, replicates=12, deviations=5.0)
# Before every training, of maskings nobody has checked: cheap, and a lawful one is refused once in a million.
QUICK = Grid(times=20, positions=6, replicates=24, deviations=8.0)
MOST_STEPS = 300  # that a learner is shown
VOCABULARY = torch.tensor([900.0, 60.0, 25.0, 10.0, 4.0, 1.0])


def check_masking(masking: Masking, grid: Grid = FINE) -> list[Law]:
    """Check every law of a masking.

    Args:
        grid: how finely to average where a law is about averages.

    Returns:
        One `Law` each: ``shapes``, ``given``, ``finite``, ``pure``, ``rows``, ``rate``, ``unbiased``, ``pickle``,
        ``learns``.
    """
    return run_laws(masking, laws(grid))


def laws(grid: Grid) -> Laws[Masking]:
    return (*_draw_laws(grid), ("learns", lambda m: learns(m, grid)))


def _draw_laws(grid: Grid) -> Laws[Masking]:
    """What holds for any masking, learned or not."""
    return (
        ("shapes", shapes),
        ("given", given),
        ("finite", finite),
        ("pure", pure),
        ("rows", rows),
        ("rate", lambda m: rate(m, grid)),
        ("unbiased", lambda m: unbiased(m, grid)),
        ("pickle", pickles),
    )


def context(maskable: Tensor, block_size: int = BLOCK) -> MaskContext:
    """A context whose tokens differ in frequency.

    The schedule is `square`, whose weights have a finite variance.
    """
    batch, length = maskable.shape
    tokens = (torch.arange(length) * 2 + 1) % len(VOCABULARY)
    return MaskContext(
        tokens=tokens.expand(batch, length),
        maskable=maskable,
        block_size=block_size,
        schedule=Square(),
        token_counts=VOCABULARY,
    )


def some() -> tuple[MaskNoise, MaskContext]:
    """A small batch with a given first token, padding at the end of a sequence, and an empty block."""
    maskable = torch.ones(5, 12, dtype=torch.bool)
    maskable[:, 0] = False
    maskable[1, 7:] = False
    return MaskNoise.draw(5, 12, BLOCK, 0, "check"), context(maskable)


def shapes(masking: Masking) -> Outcome:
    noise, given = some()
    draw = masking.draw(noise, given)
    batch, length = given.tokens.shape
    blocks = (batch, length // BLOCK)
    noisy = {name: (value, blocks) for name, value in vars(draw.noise).items()}
    for name, (value, shape) in {"mask": (draw.mask, (batch, length)), **noisy}.items():
        if tuple(value.shape) != shape:
            return False, f"{name} has shape {list(value.shape)}, not {list(shape)}."
    if draw.mask.dtype != torch.bool:
        return False, f"mask is {draw.mask.dtype}, not bool."
    return True, "mask [B, L] bool; weight, mask_prob and rate [B, L / block size]"


def given(masking: Masking) -> Outcome:
    noise, around = some()
    wrong = masking.draw(noise, around).mask & ~around.maskable
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        return False, f"token {column} of sequence {row} is given or padding, and was masked. Apply `maskable`."
    return True, "only maskable tokens are masked"


def finite(masking: Masking) -> Outcome:
    noise, around = some()
    draw = masking.draw(noise, around)
    for name, value in vars(draw.noise).items():
        bad = ~torch.isfinite(value) | (value < 0)
        if bool(bad.any()):
            row, block = bad.nonzero()[0].tolist()
            n = int(around.blocks(around.maskable)[row, block].sum())
            return False, f"{name} is {value[row, block]:.6g} for a block with {n} maskable tokens."
    return True, f"largest weight {draw.noise.weight.max():.6g}"


def pure(masking: Masking) -> Outcome:
    noise, around = some()
    first = masking.draw(noise, around)
    fresh, _ = some()
    if not torch.equal(noise.time, fresh.time) or not torch.equal(noise.position, fresh.position):
        return False, "draw changes its noise in place. Work on new tensors."
    if not _same(first, masking.draw(noise, around)):
        return False, "two draws from the same noise differ. Take all randomness from `noise`."
    return True, "the same noise gives the same draw"


def rows(masking: Masking) -> Outcome:
    noise, around = some()
    whole = masking.draw(noise, around)
    for row in range(len(around.tokens)):
        part = masking.draw(noise.rows(row, row + 1), _row(around, row))
        if not _same(part, _draw_row(whole, row)):
            return False, (
                f"sequence {row} is masked differently alone than in a batch. Let a sequence's draw depend on "
                "its own noise only, so that micro-batches and processes agree."
            )
    return True, "a sequence's draw does not depend on its batch"


@dataclass(frozen=True)
class Means:
    """Averages over a masking's noise, for one block of which `n` tokens are maskable.

    Attributes:
        weight: [R, 2^BLOCK] mean of weight * 1{mask = M} for every mask M (bit i: position i), by replicate.
        masked: [R] mean number of masked tokens.
        expected: [R] mean of n * mask_prob.
    """

    n: int
    weight: Tensor
    masked: Tensor
    expected: Tensor


@lru_cache(maxsize=8)  # two laws look at the same averages
def integrate(masking: Masking, n: int, grid: Grid) -> Means:
    """Average over a jittered grid of the noise: times times positions, counts at random."""
    cells = grid.positions**BLOCK
    batch = grid.times * cells
    index = torch.arange(batch)
    places = [index % cells // grid.positions**i % grid.positions for i in range(BLOCK)]
    maskable = torch.zeros(batch, BLOCK, dtype=torch.bool)
    maskable[:, BLOCK - n :] = True
    around = context(maskable)
    weight, masked, expected = [], [], []
    for replicate in range(grid.replicates):
        jitter = uniform((batch, BLOCK + 2), replicate, "masking check")
        noise = MaskNoise(
            time=((index // cells + jitter[:, 0]) / grid.times).unsqueeze(-1),
            count=jitter[:, 1:2],
            position=(torch.stack(places, -1) + jitter[:, 2:]) / grid.positions,
            level=uniform((batch,), replicate, "masking check level"),
        )
        draw = masking.draw(noise, around)
        code = (draw.mask.long() << torch.arange(BLOCK)).sum(-1)
        weight.append(
            torch.zeros(2**BLOCK, dtype=torch.float64).index_add_(0, code, draw.noise.weight.double().flatten()) / batch
        )
        masked.append(draw.mask.sum().double() / batch)
        expected.append(draw.noise.mask_prob.double().mean() * n)
    return Means(n, torch.stack(weight), torch.stack(masked), torch.stack(expected))


def rate(masking: Masking, grid: Grid = FINE) -> Outcome:
    """`mask_prob` is the mean masked fraction, so that loss weights see the right noise level."""
    worst, text = -1.0, ""
    for n in range(1, BLOCK + 1):
        means = integrate(masking, n, grid)
        gap, error = _compare(means.masked - means.expected, 0.0)
        if float(gap / error) > worst:
            worst = float(gap / error)
            text = f"{means.masked.mean():.5f} masked of {n}, mask_prob says {means.expected.mean():.5f}"
    if worst > grid.deviations:
        return False, f"{text}. Set mask_prob to the expected fraction of masked tokens given the draw."
    return True, text


def unbiased(masking: Masking, grid: Grid = FINE) -> Outcome:
    """The mean weight of every mask is its coefficient in the NELBO."""
    worst, text = -1.0, ""
    for n in range(1, BLOCK + 1):
        means = integrate(masking, n, grid)
        for code in range(1, 2**BLOCK):
            chosen = [i for i in range(BLOCK) if code >> i & 1]
            if min(chosen) < BLOCK - n:
                continue
            k = len(chosen)
            coefficient = 1 / (k * math.comb(n, k))
            gap, error = _compare(means.weight[:, code], coefficient)
            if float(gap / error) > worst:
                worst = float(gap / error)
                mean = float(means.weight[:, code].mean())
                text = (
                    f"mask {{{', '.join(str(i - BLOCK + n) for i in chosen)}}} of {n} tokens has mean weight "
                    f"{mean:.5f} +- {error:.1g}, NELBO coefficient {coefficient:.5f}"
                )
    if worst > grid.deviations:
        return False, (
            f"{text}. Divide the weight by how much more often than a uniform subset the whole mask is drawn."
        )
    return True, text


def learns(masking: Masking, grid: Grid = FINE) -> Outcome:
    """What a learner makes of unequal losses is a lawful masking again, and its state holds all it knows."""
    learner = masking.learner(BLOCK)
    if learner is None:
        return True, "does not learn"
    steps = min(3 * learner.refresh, MOST_STEPS)
    for step in range(steps):
        learner.observe(_losses(step))
    learned = learner.masking()
    failed = [law for law in run_laws(learned, _draw_laws(grid)) if not law.ok]
    if failed:
        return False, "after learning, " + "; ".join(f"{law.law}: {law.detail}" for law in failed)
    copy = masking.learner(BLOCK)
    assert copy is not None
    copy.load_state_dict(from_plain(json.loads(json.dumps(to_plain(learner.state_dict())))))
    json.dumps(learner.summary())
    for each in (learner, copy):
        each.observe(_losses(-1))
    noise, around = some()
    if not _same(copy.masking().draw(noise, around), learner.masking().draw(noise, around)):
        return False, "a learner restored from state_dict() goes on differently. Put all that was learned into it."
    return True, f"lawful after {steps} steps: {learner.summary()}"


def _losses(step: int) -> Observation:
    """Made-up losses of a step, larger for a single masked token."""
    u = uniform((3, 8, 5), step + 1, "losses of the masking check")
    maskable = 1 + (u[0] * BLOCK).long()
    masked = 1 + (u[1] * maskable).long()
    nll = masked * (1 + u[2]) * torch.where(masked == 1, 3.0, 1.0)
    return Observation(masked, maskable, torch.ones_like(nll), nll)


def _compare(replicates: Tensor, expected: float) -> tuple[Tensor, Tensor]:
    """Distance of the mean over replicates from `expected`, and the mean's standard error."""
    error = replicates.std() / math.sqrt(len(replicates))
    return (replicates.mean() - expected).abs(), error + 1e-9


def _row(around: MaskContext, row: int) -> MaskContext:
    keep = slice(row, row + 1)
    return MaskContext(
        tokens=around.tokens[keep],
        maskable=around.maskable[keep],
        block_size=around.block_size,
        schedule=around.schedule,
        token_counts=around.token_counts,
    )


def _draw_row(draw: MaskDraw, row: int) -> MaskDraw:
    keep = slice(row, row + 1)
    return MaskDraw(draw.mask[keep], Noise(*(value[keep] for value in vars(draw.noise).values())))


def _same(one: MaskDraw, other: MaskDraw) -> bool:
    weights = one.noise.weight, other.noise.weight
    return torch.equal(one.mask, other.mask) and torch.allclose(*weights, rtol=1e-9, equal_nan=True)


LAWS = laws(FINE)
