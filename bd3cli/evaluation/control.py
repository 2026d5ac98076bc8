"""A control variate for masked likelihoods: what an n-gram model of the evaluated text says of each token.

An estimate weighs every masked token by its draw's weight; over the draws a token's weights have mean 1. So for
any numbers b_i that depend on the clean text alone, adding sum_i b_i (1 - weight of i) changes the estimate's
mean not at all, and takes out of its noise what b_i knows about token i: drawing a hard token, and often, no
longer raises the estimate. The n-gram's prediction of a token costs no forward pass and knows a good deal.

Shapes: n sequences, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bd3cli.data import PackedSplit
from bd3cli.errors import InputError, did_you_mean
from bd3cli.evaluation.subsets import choose_sequences

Ids = npt.NDArray[np.int64]
CONTROLS = ("none", "ngram")
LONGEST = 2  # tokens of context: a trigram
STRENGTH = 10.0  # tokens a shorter context's prediction counts for
SCALE = 0.7  # part of the n-gram's nats that is taken out; measured, see the benchmarks
FIT_TOKENS = 1 << 22


@dataclass(frozen=True)
class NgramControl:
    """Counts of the evaluated split, which predict its tokens by interpolation from short to long contexts.

    Attributes:
        vocab: ids are smaller than this.
        tables: per context length, the (context, token) codes that occur and their counts, and those of contexts.
    """

    vocab: int
    tables: tuple[tuple[Ids, Ids, Ids, Ids], ...]

    @staticmethod
    def fit(split: PackedSplit, vocab: int) -> NgramControl:
        """Count a split: all of it, or a fixed random part of a very large one."""
        chosen = choose_sequences(len(split), max(2, FIT_TOKENS // split.length))
        tokens, valid = split.tokens(chosen), split.valid(chosen)
        tables = []
        for order in range(LONGEST + 1):
            context = _contexts(tokens, order, vocab)[valid]
            tables.append(
                (
                    *np.unique(context * vocab + tokens[valid], return_counts=True),
                    *np.unique(context, return_counts=True),
                )
            )
        return NgramControl(vocab, tuple(tables))

    def baseline(self, tokens: Tensor) -> Tensor:
        """Nats of each token [n, L], scaled by `SCALE`: a function of the clean text alone.

        A token's own occurrence is discounted, or rare tokens would look certain.
        """
        ids = tokens.numpy()
        p = np.full(ids.shape, 1 / self.vocab)
        for order, (pairs, pair_counts, contexts, context_counts) in enumerate(self.tables):
            context = _contexts(ids, order, self.vocab)
            together = np.maximum(_look_up(pairs, pair_counts, context * self.vocab + ids) - 1, 0)
            alone = np.maximum(_look_up(contexts, context_counts, context) - 1, 0)
            p = (together + STRENGTH * p) / (alone + STRENGTH)
        return torch.from_numpy(-SCALE * np.log(p))


def make_control(name: str, split: PackedSplit, vocab: int) -> NgramControl | None:
    """The control variate called `name`, made for a split; None for ``none``.

    Raises:
        InputError: unknown name.
    """
    if name not in CONTROLS:
        raise InputError(f"There is no control {name!r}.{did_you_mean(name, CONTROLS)} Choose none or ngram.")
    return NgramControl.fit(split, vocab) if name == "ngram" else None


def _contexts(tokens: Ids, order: int, vocab: int) -> Ids:
    """One code [n, L] for the `order` tokens before each; what lies before the sequence is one more id."""
    code = np.zeros(tokens.shape, dtype=np.int64)
    for back in range(order, 0, -1):
        before = np.full(tokens.shape, vocab, dtype=np.int64)
        before[:, back:] = tokens[:, :-back]
        code = code * (vocab + 1) + before
    return code


def _look_up(codes: Ids, counts: Ids, wanted: Ids) -> Ids:
    at = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    return np.where(codes[at] == wanted, counts[at], 0)
