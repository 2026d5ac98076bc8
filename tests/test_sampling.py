"""Samplers: exact distribution, caching and batching without a trace, seeds."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from scipy import stats

import bd3cli
from bd3cli.errors import InputError
from bd3cli.sampling.autoregressive import autoregressive
from bd3cli.sampling.base import Request, Rows
from bd3cli.sampling.choose import choose_tokens
from bd3cli.sampling.first_hitting import first_hitting
from bd3cli.sampling.generate import generate, make_request, token_entropy

SAMPLER = {"ar": autoregressive, "mdlm": first_hitting, "bd3lm": first_hitting}


@pytest.mark.parametrize("prompt", [(1,), (1, 2, 3, 4, 5, 6)])
@pytest.mark.parametrize(("family", "block_size"), [("ar", 1), ("mdlm", 16), ("bd3lm", 1), ("bd3lm", 4), ("bd3lm", 8)])
@torch.inference_mode()
def test_cache_and_batch_leave_no_trace(make_model, family, block_size, prompt) -> None:
    model = make_model(family, block_size=block_size)
    request = Request(16, prompt, nucleus=0.9)
    batch, nfe = SAMPLER[family](model, request, Rows(list(range(8))), None)
    assert nfe == 16 - len(prompt)
    assert batch.shape == (8, 16)
    assert (batch != model.config.mask_id).all()
    assert torch.equal(batch[:, : len(prompt)], torch.tensor(prompt).expand(8, -1))
    assert len({tuple(row) for row in batch.tolist()}) == 8
    uncached, _ = SAMPLER[family](model, Request(16, prompt, nucleus=0.9, cached=False), Rows(list(range(8))), None)
    assert torch.equal(batch, uncached)
    single = [SAMPLER[family](model, request, Rows([seed]), None)[0] for seed in range(8)]
    assert torch.equal(batch, torch.cat(single))


@pytest.mark.parametrize("family", ["ar", "bd3lm"])
def test_a_trained_run_gives_the_same_samples_batched_or_alone(family: str, trained: Path, trained_ar: Path) -> None:
    run = bd3cli.load(str(trained if family == "bd3lm" else trained_ar))
    request = make_request(run.model, run.tokenizer, prompt="The ")
    eight = generate(run.model, run.tokenizer, request, num=8, seed=5, batch_size=8).samples
    alone = [generate(run.model, run.tokenizer, request, num=1, seed=5 + i).samples[0] for i in range(8)]
    assert eight == alone
    assert all(s.text.startswith("The ") and s.length == 32 for s in eight)


def joint(model, prompt: tuple[int, ...], length: int, vocab: int, temperature: float) -> dict[tuple[int, ...], float]:
    """The exact distribution of one block: over uniformly random orders of revealing its masked positions."""
    mask = model.config.mask_id
    free = [i for i in range(length) if i >= len(prompt)]
    orders = list(itertools.permutations(free))
    probs: dict[tuple[int, ...], float] = {}
    cache: dict[tuple[int, ...], torch.Tensor] = {}

    def predict(x: tuple[int, ...]) -> torch.Tensor:
        if x not in cache:
            empty = model.new_cache(1, length)
            logits = model.logits(model.extend(torch.tensor([x]), empty)[0]).double()
            logits[:, mask] = -torch.inf
            cache[x] = (logits / temperature).softmax(-1)
        return cache[x]

    for order in orders:
        for values in itertools.product(range(vocab), repeat=len(free)):
            x = list(prompt) + [mask] * len(free)
            p = 1 / len(orders)
            for position in order:
                value = values[position - len(prompt)]
                p *= predict(tuple(x))[position, value].item()
                x[position] = value
            probs[tuple(x)] = probs.get(tuple(x), 0.0) + p
    return probs


@pytest.mark.parametrize("family", ["bd3lm", "mdlm"])
@torch.inference_mode()
def test_first_hitting_samples_the_exact_joint(make_model, family) -> None:
    """Chi-square of 20,000 samples against the enumerated distribution of a block of three free tokens."""
    model = make_model(family, length=4, block_size=4, vocab=4)
    expected = joint(model, (1,), 4, 3, temperature=5.0)
    assert sum(expected.values()) == pytest.approx(1)
    drawn, n = dict.fromkeys(expected, 0), 20_000
    tokens, _ = first_hitting(model, Request(4, (1,), temperature=5.0), Rows(list(range(n))), None)
    for row in tokens.tolist():
        drawn[tuple(row)] += 1
    keys = sorted(expected)
    assert min(expected.values()) * n > 5
    assert stats.chisquare([drawn[k] for k in keys], [expected[k] * n for k in keys]).pvalue > 1e-3


def test_choosing_follows_the_distribution_and_never_takes_the_mask() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 50.0]])
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    chosen = choose_tokens(logits.expand(len(u), -1).clone(), u, mask_id=3)
    share = torch.bincount(chosen, minlength=4) / len(u)
    torch.testing.assert_close(share[:3], torch.tensor([0.0, 1.0, 2.0]).softmax(0), atol=2e-5, rtol=0)
    assert share[3] == 0
    sharp = choose_tokens(logits.expand(len(u), -1).clone(), u, mask_id=3, temperature=0.5)
    torch.testing.assert_close(
        (torch.bincount(sharp, minlength=3) / len(u))[:3], torch.tensor([0.0, 2.0, 4.0]).softmax(0), atol=2e-5, rtol=0
    )


def test_the_nucleus_keeps_the_token_that_crosses_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000

    def share(nucleus: float) -> list[float]:
        chosen = choose_tokens(logits.expand(len(u), -1).clone(), u, mask_id=None, nucleus=nucleus)
        return (torch.bincount(chosen, minlength=4) / len(u)).tolist()

    assert share(0.6) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)
    assert share(0.81) == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], abs=1e-3)
    assert share(1e-9) == pytest.approx([1, 0, 0, 0])
    assert share(1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=1e-3)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_extreme_uniforms_give_possible_tokens(u: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.1, 0.2, 0.3, -torch.inf]])
    token = choose_tokens(logits, torch.tensor([u], dtype=torch.float64), mask_id=4).item()
    assert token == (1 if u == 0.0 else 3)


def test_watching_shows_every_step(make_model) -> None:
    model = make_model("bd3lm")
    frames: list[torch.Tensor] = []
    with torch.inference_mode():
        first_hitting(model, Request(8, (1,)), Rows([0]), lambda tokens: frames.append(tokens.clone()))
    masked = [int((f == model.config.mask_id).sum()) for f in frames]
    assert masked == [2, 1, 0, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, "between 2 and the model's context of 32"),
        ({"length": 33}, "between 2 and the model's context of 32"),
        ({"prompt": "x" * 32}, "leaves none of 32 to generate"),
        ({"nucleus": 0.0}, "nucleus must lie in"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
    ],
)
def test_requests_that_cannot_be_served(trained: Path, options, message) -> None:
    run = bd3cli.load(str(trained))
    with pytest.raises(InputError) as error:
        make_request(run.model, run.tokenizer, **options)
    assert message in str(error.value)


def test_token_entropy() -> None:
    assert token_entropy([3, 3, 3]) == 0
    assert token_entropy([1, 2, 3, 4]) == pytest.approx(torch.log(torch.tensor(4.0)).item())
