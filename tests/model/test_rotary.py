"""The fused rotation against the plain one."""

from __future__ import annotations

import pytest
import torch

from bd3cli.model.rotary import Rotary, interleaved_rows, rotate, split_rotate, turn


@pytest.mark.parametrize("parts", [3, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_scores_and_gradients_equal_the_plain_ones(parts: int, dtype: torch.dtype) -> None:
    """`parts` = 3: queries, keys, values; 2: keys and values. Compared through q.k, which permuting leaves alone."""
    torch.manual_seed(0)
    heads, head_dim, width = 3, 8, 24
    angles = Rotary(head_dim)(torch.arange(5, 11), heads)
    x = torch.randn(2, 6, width).to(dtype)
    weight = torch.randn(parts * width, width).to(dtype)
    probe = torch.randn(2, 6, heads, head_dim).to(dtype)
    rows = interleaved_rows(heads, head_dim, rotated=parts - 1, kept=1)
    probe_rows = interleaved_rows(1, head_dim, rotated=1, kept=0)
    results = []
    for fused in (True, False):
        w, inputs = weight.clone().requires_grad_(), x.clone().requires_grad_()
        if fused:
            *turned, values = split_rotate(inputs @ w[rows].t(), angles, heads)
            other = probe[..., probe_rows]
        else:
            *plain, values = (inputs @ w.t()).unflatten(-1, (parts, heads, head_dim)).unbind(2)
            turned, other = [rotate(p, angles) for p in plain], probe
        scores = torch.stack([(t * other).float().sum(-1) for t in turned])
        loss = (scores * torch.linspace(-1, 1, 6)[:, None]).sum() + values.float().square().sum()
        loss.backward()
        results.append((scores, values.float(), w.grad.float(), inputs.grad.float()))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.5}
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_both_forms_for_few_positions_agree() -> None:
    rotary, positions, x = Rotary(8), torch.arange(5, 11), torch.randn(6, 3, 8)
    torch.testing.assert_close(turn(x, *rotary.turns(positions)), rotate(x, rotary(positions, 3)))


def test_rotation_depends_on_relative_position_only() -> None:
    head_dim = 8
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)

    def score(i: int, j: int) -> float:
        rotary = Rotary(head_dim)
        return (turn(q, *rotary.turns(torch.tensor([i]))) * turn(k, *rotary.turns(torch.tensor([j])))).sum().item()

    assert score(3, 7) == pytest.approx(score(103, 107), abs=1e-5)
    assert score(3, 7) == pytest.approx(score(1_000_003, 1_000_007), abs=1e-5)
    assert score(3, 7) != pytest.approx(score(3, 8), abs=1e-4)
