"""Scoring a continuation given its context, and the adapter that serves lm-evaluation-harness."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bd3cli
from bd3cli.errors import InputError
from bd3cli.evaluation import likelihood
from bd3cli.evaluation.conditional import Request, conditional_nelbo, greedy_matches, lay_out, windows

MASK, BOS = 10, 9


def ids(n: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, 9, n).tolist())


def test_ar_scores_are_the_chain_rule(make_model) -> None:
    """Of the whole text minus of the context, both from BOS."""
    model, text = make_model("ar"), ids(12)
    whole, context, rest = conditional_nelbo(
        model, [Request((), text), Request((), text[:5]), Request(text[:5], text[5:])], BOS
    )
    assert rest == pytest.approx(whole - context, rel=1e-5)


def test_block_diffusion_masks_the_continuation_only_by_enumeration(make_model) -> None:
    """A block with two given and two scored tokens, then a block of three: all masks of the scored ones."""
    model, text = make_model("bd3lm", block_size=4), ids(10)
    request = Request(text[:5], text[5:])  # position 0 is BOS, so the continuation is positions 6..10
    found = conditional_nelbo(model, [request], BOS, estimator="exact")[0]
    x_0 = torch.tensor([[BOS, *text, *[BOS] * 5]])
    total = 0.0
    for free in ([6, 7], [8, 9, 10]):
        for k in range(1, len(free) + 1):
            weight = 1 / (k * math.comb(len(free), k))
            for masked in itertools.combinations(free, k):
                x_t = x_0.clone()
                x_t[0, [*masked, *range(11, 16)]] = MASK
                with torch.no_grad():
                    logits = model.logits(model(x_t, x_0)[0, list(masked)])
                logits[:, MASK] = -torch.inf
                targets = x_0[0, list(masked), None]
                total += weight * -logits.log_softmax(-1).gather(1, targets).sum().item()
    assert found == pytest.approx(total, rel=1e-5)
    counted = [conditional_nelbo(model, [request], BOS, draws=12, seed=s)[0] for s in range(20)]
    assert abs(np.mean(counted) - total) < 4 * np.std(counted, ddof=1) / math.sqrt(20)


def test_what_follows_the_continuation_does_not_matter_in_other_blocks(make_model) -> None:
    model, text = make_model("bd3lm", block_size=4), ids(7)
    alone = conditional_nelbo(model, [Request(text[:3], text[3:])], BOS, estimator="exact")
    beside = conditional_nelbo(
        model, [Request(text[:3], text[3:]), Request((), ids(15, 1))], BOS, estimator="exact", batch_size=1
    )
    assert alone[0] == pytest.approx(beside[0], rel=1e-5)


def test_without_a_context_it_is_the_likelihood_of_eval(make_model) -> None:
    class Split:
        fingerprint, length = "made up", 16

        def __init__(self) -> None:
            self.rows = np.stack([np.array([BOS, *ids(15, s)]) for s in range(3)])

        def __len__(self) -> int:
            return 3

        def tokens(self, indices):
            return self.rows[indices]

        def valid(self, indices):
            return np.ones_like(self.rows[indices], dtype=bool)

    split = Split()
    for family in ("ar", "bd3lm"):
        model = make_model(family)
        expected = likelihood(model, split, estimator="exact").nelbo
        found = conditional_nelbo(
            model, [Request((), tuple(r[1:])) for r in split.rows.tolist()], BOS, estimator="exact"
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_long_context_loses_its_beginning_and_a_long_continuation_is_refused(make_model) -> None:
    tokens, valid, free = lay_out([Request(tuple(range(1, 9)) * 3, (0, 0))], 8, BOS)
    assert tokens.tolist() == [[BOS, 4, 5, 6, 7, 8, 0, 0]]
    assert valid.all()
    assert free.tolist() == [[False] * 6 + [True] * 2]
    model = make_model("ar")
    for n in (0, 16):
        with pytest.raises(InputError, match=f"has {n} tokens"):
            conditional_nelbo(model, [Request((1,), (2,) * n)], BOS)


def test_greedy_is_what_decoding_by_the_largest_logit_gives(make_model) -> None:
    """For `ar` token by token; for block diffusion a whole block at once. One other token and it is not."""
    for family in ("ar", "bd3lm"):
        model, text = make_model(family, block_size=4), [BOS, *ids(4)]
        for begin in range(5, 8) if family == "ar" else (5,):
            x = torch.full((1, 16), MASK)
            x[0, :begin] = torch.tensor(text[:begin])
            given = x.clone() if family == "bd3lm" else None
            with torch.no_grad():
                logits = model.logits(model(x, given))[0]
            logits[:, MASK] = -torch.inf
            best = logits.argmax(-1).tolist()
            text += [best[begin - 1]] if family == "ar" else best[5:8]
        right, wrong = Request(tuple(text[1:5]), tuple(text[5:8])), Request(tuple(text[1:5]), (*text[5:7], 9 - text[7]))
        assert greedy_matches(model, [right, wrong], BOS).tolist() == [True, False], family


@pytest.mark.parametrize("n", [0, 1, 7, 8, 23, 60])
def test_windows_predict_every_token_once_in_order_after_what_is_before_it(n: int) -> None:
    text = list(range(n))
    requests = windows(text, 8)
    assert [t for r in requests for t in r.continuation] == text
    for request in requests:
        assert len(request.context) + len(request.continuation) <= 7
        joined = [*request.context, *request.continuation]
        assert joined == list(range(joined[0], joined[0] + len(joined)))


def test_the_adapter_in_the_harness_itself(trained: Path, trained_ar: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.registry import get_model

    from bd3cli.studies.harness import BD3LM

    assert get_model("bd3cli") is BD3LM
    ar, block = BD3LM(bd3cli.load(str(trained_ar))), BD3LM(str(trained), draws=4)
    assert (ar.bound, block.bound) == (False, True)
    pair = [SimpleNamespace(args=("The value ", "of the name")), SimpleNamespace(args=("", "The value"))]
    rolling = [SimpleNamespace(args=("The value of the name is bound to it. " * 3,)), SimpleNamespace(args=("",))]
    for model in (ar, block):
        scores = model.loglikelihood(pair)
        assert all(score < 0 and isinstance(greedy, bool) for score, greedy in scores)
        long, empty = model.loglikelihood_rolling(rolling)
        assert long < scores[1][0]
        assert empty == 0
    # the chain rule through text: log p(context) + log p(continuation | context) = log p(both)
    first, second = (ar.loglikelihood([SimpleNamespace(args=a)])[0][0] for a in (("", "The"), ("The", " value")))
    assert first + second == pytest.approx(
        ar.loglikelihood_rolling([SimpleNamespace(args=("The value",))])[0], rel=1e-5
    )
    assert ar.request("The value ", "of").continuation == tuple(b" of")
    with pytest.raises(InputError, match="only score text"):
        ar.generate_until([])
