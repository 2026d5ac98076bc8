"""`reference` against a loop over rows written straight from the definition."""

from __future__ import annotations

import pytest
import torch

from bd3cli.attention import block_attention
from bd3cli.errors import InputError


def by_hand(q, k, v, block_size):
    """Each query row against its keys, listed one by one."""
    rows, dim, length = q.shape[1], q.shape[3], k.shape[1] // 2
    out = torch.empty_like(q)
    for row in range(rows):
        clean, block = row >= length, (row % length) // block_size
        first, last = block * block_size, (block + 1) * block_size
        keys = list(range(length, length + (last if clean else first)))
        if not clean:
            keys += range(first, last)
        scores = torch.einsum("bhd,bkhd->bhk", q[:, row], k[:, keys]) / dim**0.5
        out[:, row] = torch.einsum("bhk,bkhd->bhd", scores.softmax(-1), v[:, keys])
    return out


@pytest.mark.parametrize(("length", "block_size"), [(1, 1), (6, 1), (6, 2), (6, 3), (6, 6), (8, 4)])
@pytest.mark.parametrize("copies", [1, 2])
def test_matches_the_definition(length, block_size, copies):
    q, k, v = (torch.randn(2, 2 * length, 3, 5, dtype=torch.float64) for _ in range(3))
    q = q[:, : copies * length]
    out = block_attention(q, k, v, block_size=block_size, backend="reference")
    assert out.shape == q.shape
    torch.testing.assert_close(out, by_hand(q, k, v, block_size))


def test_a_noisy_row_depends_on_nothing_but_its_own_noisy_block_and_earlier_clean_blocks():
    length, size = 8, 2
    q, k, v = (torch.randn(1, 2 * length, 1, 4, dtype=torch.float64) for _ in range(3))
    v.requires_grad_()
    out = block_attention(q, k, v, block_size=size, backend="reference")
    out[0, 5].sum().backward()
    assert v.grad is not None
    seen = v.grad.abs().sum((0, 2, 3)).nonzero().flatten().tolist()
    assert seen == [4, 5, *range(length, length + 4)]


@pytest.mark.parametrize("size", [0, -1, 3, 16])
def test_block_size_must_divide_the_length(size):
    q = torch.randn(1, 16, 1, 4)
    with pytest.raises(InputError, match=f"Block size {size} does not divide the length 8"):
        block_attention(q, q, q, block_size=size)


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((1, 8, 1, 4), (1, 6, 1, 4), (1, 6, 1, 4)),
        ((1, 7, 1, 4), (1, 7, 1, 4), (1, 7, 1, 4)),
        ((1, 8, 1, 4), (1, 8, 1, 4), (1, 8, 2, 4)),
        ((2, 8, 1, 4), (1, 8, 1, 4), (1, 8, 1, 4)),
        ((8, 1, 4), (8, 1, 4), (8, 1, 4)),
        ((1, 0, 1, 4), (1, 0, 1, 4), (1, 0, 1, 4)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(q, k, v):
    with pytest.raises(InputError):
        block_attention(torch.randn(q), torch.randn(k), torch.randn(v), block_size=1)


def test_mixed_dtypes_are_refused():
    q = torch.randn(1, 8, 1, 4)
    with pytest.raises(InputError, match="share one dtype"):
        block_attention(q, q.double(), q, block_size=2)
