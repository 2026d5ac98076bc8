"""Autoregressive training on as many tokens as block diffusion with one token a block masks."""

from __future__ import annotations

import pytest
import torch

from bd3cli.diffusion.objective import Objective
from bd3cli.errors import InputError
from bd3cli.maskings import MaskNoise
from bd3cli.recipes.settings import ObjectiveConfig, Recipe


def batch(rows: int, length: int, family: str, **options: object):  # type: ignore[no-untyped-def]
    objective = Objective.build(ObjectiveConfig(family=family, block_size=1, **options), 9, 1)  # type: ignore[arg-type]
    tokens = torch.randint(0, 9, (rows, length), generator=torch.Generator().manual_seed(1))
    noise = MaskNoise.draw(rows, length, 1, 0, "mask", 0)
    return tokens, objective.batch(tokens, torch.ones_like(tokens, dtype=torch.bool), noise, 0.0)


def test_it_scores_the_tokens_that_diffusion_with_one_token_a_block_masks() -> None:
    tokens, ar = batch(50, 40, "ar", random_batch=True)
    _, diffusion = batch(50, 40, "bd3lm", masking="bernoulli")
    scored = {(row, position % 39 + 1) for row, position in zip(ar.row.tolist(), ar.index.tolist(), strict=True)}
    masked = {(i // 40, i % 40) for i in diffusion.index.tolist()}
    # the times are one minus each other: compare how many, not which
    assert len(scored) == pytest.approx(len(masked), rel=0.1)
    assert len(scored) == pytest.approx(50 * 39 / 2, rel=0.1)
    assert all(int(t) == int(tokens[r, c]) for t, (r, c) in zip(ar.target, sorted(scored), strict=True))


def test_its_weights_keep_the_loss_unbiased() -> None:
    _, ar = batch(400, 40, "ar", random_batch=True)
    assert float(ar.weight.sum()) == pytest.approx(400 * 39, rel=0.02)  # standard error 0.8%
    _, plain = batch(3, 40, "ar")
    assert plain.weight.tolist() == [1.0] * (3 * 39)


def test_it_is_refused_where_masks_are_random_already() -> None:
    with pytest.raises(InputError, match=r"random_batch has no effect on family 'bd3lm'.*choose family ar"):
        Recipe(objective=ObjectiveConfig(family="bd3lm", random_batch=True))
