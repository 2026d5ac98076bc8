"""Negative log-likelihood (or its bound) of held-out sequences, with an interval.

Nothing of a run's training objective gets in here: no schedule, clip, masking or loss weight. The estimators
draw their own masks, under p(t) = t or its exact count form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from bd3cli.data import PackedSplit, Tokenizer
from bd3cli.diffusion.batch import Batch, autoregressive_batch, maskable, masked_batch, token_nll
from bd3cli.diffusion.conditioning import sequence_sigma
from bd3cli.errors import InputError
from bd3cli.evaluation.control import make_control
from bd3cli.evaluation.estimators import Estimator, level_uniforms, make_estimator
from bd3cli.evaluation.intervals import Mean, bounded_exp, mean_of, ratio_of_sums
from bd3cli.evaluation.subsets import choose_sequences
from bd3cli.model import Transformer, TransformerConfig

Progress = Callable[[int, int], None]

MANY_PASSES = 8  # with fewer a sequence, `uniform` says that its weights 1/t have a heavy tail
HEAVY_UNIFORM = "uniform weighs a rare mask by up to 1000: with few draws its interval is often too narrow; use count"


class _Measured(TypedDict):
    ppl: float
    nats_per_token: float


class LikelihoodSummary(_Measured, total=False):
    """The fields of ``bd3cli eval --json``; files of older versions have fewer of them."""

    ci95: list[float]
    nats_per_token_ci95: list[float]
    stderr_nats_per_token: float
    effective_n: float
    interval_df: float
    interval_notes: list[str]
    mc_stderr_nats_per_token: float | None
    seeds: int
    bits_per_byte: float | None
    tokens: int
    sequences: int
    forward_passes: int
    estimator: str
    control: str
    exact: bool


@dataclass(frozen=True)
class Likelihood:
    """A likelihood with what is needed to believe it.

    Attributes:
        nelbo: [n] nats of each sequence (an upper bound on its -log p unless `exact_nll`).
        tokens: [n] predicted tokens of each sequence (BOS and padding are not predicted).
        bytes: UTF-8 bytes of all predicted tokens; special tokens count none.
        estimator: ``count``, ``uniform``, ``exact``, or ``nll`` where no masks are involved.
        control: the control variate used, ``none`` or ``ngram``.
        exact: True when no Monte Carlo is involved.
        forward_passes: network evaluations a sequence.
        sequences: indices of the sequences in the split.
        fingerprint: of the split; two likelihoods with the same one are of the same tokens.
        per_seed: [S, n] nats of each sequence under each Monte Carlo seed; `nelbo` is their mean.
    """

    nelbo: np.ndarray
    tokens: np.ndarray
    bytes: int
    estimator: str
    exact: bool
    forward_passes: int
    sequences: list[int]
    fingerprint: str
    per_seed: np.ndarray
    control: str = "none"

    @staticmethod
    def merge(shares: Sequence[Likelihood]) -> Likelihood:
        """One likelihood from the shares of several processes."""
        order = np.argsort(np.concatenate([share.sequences for share in shares]), kind="stable")
        return replace(
            shares[0],
            nelbo=np.concatenate([share.nelbo for share in shares])[order],
            tokens=np.concatenate([share.tokens for share in shares])[order],
            bytes=sum(share.bytes for share in shares),
            sequences=sorted(i for share in shares for i in share.sequences),
            per_seed=np.concatenate([share.per_seed for share in shares], axis=1)[:, order],
        )

    @property
    def nats_per_token(self) -> float:
        return float(self.nelbo.sum() / self.tokens.sum())

    @property
    def ppl(self) -> float:
        """Perplexity, exp of nats per token; capped where it would overflow."""
        return bounded_exp(self.nats_per_token)

    @cached_property
    def mean(self) -> Mean:
        """`nats_per_token` and how well it is known of text like this.

        Its error is over the sequences in the order of the text, as dependent on each other as they are
        (`bd3cli.evaluation.intervals`), and contains the Monte Carlo noise.
        """
        mean = ratio_of_sums(self.nelbo, self.tokens)
        if self.estimator != "uniform" or self.forward_passes >= MANY_PASSES:
            return mean
        return replace(mean, notes=(*mean.notes, HEAVY_UNIFORM))

    @property
    def nats_per_token_ci95(self) -> tuple[float, float]:
        """95% interval of `nats_per_token`."""
        return self.mean.ci95

    @property
    def ppl_ci95(self) -> tuple[float, float]:
        """95% interval of `ppl`: exp of that of `nats_per_token`."""
        low, high = self.mean.ci95
        return bounded_exp(low), bounded_exp(high)

    @property
    def mc_stderr(self) -> float | None:
        """Standard error of `nats_per_token` as an estimate for these very sequences: Monte Carlo alone.

        0 for an exact likelihood; None with one seed, which does not show it.
        """
        if self.exact:
            return 0.0
        totals = self.per_seed.sum(1) / self.tokens.sum()
        return mean_of(totals).stderr if len(totals) > 1 else None

    @property
    def bits_per_byte(self) -> float | None:
        """All predicted nats over all predicted bytes; None when the tokens spell no bytes."""
        return float(self.nelbo.sum() / math.log(2) / self.bytes) if self.bytes else None

    def summary(self) -> LikelihoodSummary:
        """The fields of ``bd3cli eval --json``. Perplexities are exp of nats per token."""
        return {
            "ppl": self.ppl,
            "ci95": list(self.ppl_ci95),
            "nats_per_token": self.nats_per_token,
            "nats_per_token_ci95": list(self.nats_per_token_ci95),
            "stderr_nats_per_token": self.mean.stderr,
            **self.mean.basis(),
            "mc_stderr_nats_per_token": self.mc_stderr,
            "seeds": len(self.per_seed),
            "bits_per_byte": self.bits_per_byte,
            "tokens": int(self.tokens.sum()),
            "sequences": len(self.nelbo),
            "forward_passes": self.forward_passes,
            "estimator": self.estimator,
            "control": self.control,
            "exact": self.exact,
        }


def likelihood(
    model: Transformer,
    split: PackedSplit,
    tokenizer: Tokenizer | None = None,
    *,
    estimator: str = "count",
    control: str = "none",
    draws: int = 1,
    sequences: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    batch_size: int = 32,
    progress: Progress | None = None,
    share: tuple[int, int] = (0, 1),
) -> Likelihood:
    """Evaluate `model` on a split.

    Args:
        tokenizer: gives the byte length of each token; without it bits per byte are not reported.
        estimator: ``count``, ``uniform`` or ``exact``. An ``ar`` model has an exact likelihood and uses none.
        control: ``ngram`` takes out of the noise of ``count`` and ``uniform`` what an n-gram model of the split
            can tell (see `bd3cli.evaluation.control`); ``none`` does not. Exact likelihoods have no noise.
        draws: forward passes a sequence of ``count`` and ``uniform``.
        sequences: evaluate a fixed random subset of this many; the same one for every model and seed.
        seed: of the masks.
        seeds: repeat with this many seeds from `seed` on and take the mean; shows the Monte Carlo error.
        share: (i, n) for the i-th of n processes: evaluate every n-th of those sequences, for `Likelihood.merge`.

    Raises:
        InputError: too few sequences, or an estimator that cannot serve this model.
    """
    chosen = choose_sequences(len(split), sequences)
    if len(chosen) < 2:
        raise InputError(
            f"The split has {len(split)} sequence(s) of {model.config.length} tokens; an interval needs at "
            "least 2. Use more text or a shorter length."
        )
    chosen = chosen[share[0] :: share[1]]
    schemes: list[Estimator | None] = [None]
    if model.config.traits.masks:
        c = model.config
        schemes = [
            make_estimator(estimator, c.block_size, len(split), draws, seed + i, c.time_conditioning)
            for i in range(seeds)
        ]
    scheme = schemes[0]
    # With one token a block `count` has a single mask: the estimate is the likelihood itself.
    exact = scheme is None or scheme.name == "exact" or (model.config.block_size == 1 and scheme.name == "count")
    if exact:
        schemes = schemes[:1]  # other seeds would repeat it
    variate = make_control(control, split, model.config.vocab_size)
    nelbo, tokens, byte_count = [np.zeros((len(schemes), 0))], [np.zeros(0, dtype=np.int64)], 0
    with model.folded():
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            ids, valid = torch.from_numpy(split.tokens(part)), torch.from_numpy(split.valid(part))
            known = None if variate is None or exact else variate.baseline(ids)
            estimates = [sequence_nelbo(model, s, part, ids, valid, seed + i, known) for i, s in enumerate(schemes)]
            nelbo.append(np.stack(estimates))
            predicted = maskable(valid)
            tokens.append(predicted.sum(1).numpy())
            if tokenizer is not None:
                byte_count += int(tokenizer.token_bytes[ids[predicted].numpy()].sum())
            if progress is not None:
                progress(min(start + batch_size, len(chosen)), len(chosen))
    per_seed = np.concatenate(nelbo, axis=1)
    return Likelihood(
        nelbo=per_seed.mean(0),
        tokens=np.concatenate(tokens),
        bytes=byte_count,
        estimator=scheme.name if scheme else "nll",
        control="none" if exact else control,
        exact=exact,
        forward_passes=(scheme.passes if scheme else 1) * len(schemes),
        sequences=chosen,
        fingerprint=split.fingerprint,
        per_seed=per_seed,
    )


@torch.inference_mode()
def sequence_nelbo(
    model: Transformer,
    scheme: Estimator | None,
    indices: list[int],
    tokens: Tensor,
    valid: Tensor,
    seed: int,
    known: Tensor | None = None,
) -> np.ndarray:
    """Nats of each sequence [n] in float64.

    Args:
        known: [n, L] a control variate, what can be told of each token's nats without masks.
    """
    device = next(model.parameters()).device
    if scheme is None:
        batches = [autoregressive_batch(tokens, valid)]
    else:
        batches = _masked_batches(model.config, scheme, indices, tokens, valid, seed)
    total = torch.zeros(len(tokens), dtype=torch.float64)
    if known is not None:  # a token's weights over the draws have mean 1: what is subtracted below comes back here
        total += known.masked_fill(~maskable(valid), 0.0).sum(1)
    was_training = model.training
    model.eval()
    for batch in batches:
        nll = token_nll(model, batch.to(device)).double().cpu()
        if known is not None:
            nll -= known.flatten()[batch.index]
        total.index_add_(0, batch.row, nll * batch.weight)
    model.train(was_training)
    return total.numpy()


def _masked_batches(
    config: TransformerConfig, scheme: Estimator, indices: list[int], tokens: Tensor, valid: Tensor, seed: int
) -> list[Batch]:
    """One batch for each of the estimator's draws; with the noise level for networks that see it."""
    assert config.mask_id is not None
    free = maskable(valid)
    draws = scheme.draws(indices, free)
    sigmas: list[Tensor | None] = [None] * len(draws)
    if config.time_conditioning:
        levels = level_uniforms(seed, indices, len(draws))  # [n, D]
        sigmas = [sequence_sigma(draw, free, levels[:, d], drew_time=scheme.draws_time) for d, draw in enumerate(draws)]
    return [
        masked_batch(tokens, valid, draw, config.mask_id, config.block_size, sigma)
        for draw, sigma in zip(draws, sigmas, strict=True)
    ]
