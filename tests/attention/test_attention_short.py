"""Short sequences on the CPU: where their layout is used, what it holds and what it keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bd3cli.attention import block_attention
from bd3cli.attention.cpu.short import short_layout
from bd3cli.attention.plan import BlockPlan, dense_mask
from bd3cli.bench.attention import saved_bytes


@given(length=st.integers(1, 300), clean_queries=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_tiles_hold_each_visible_pair_once(length, clean_queries, data):
    size = data.draw(st.sampled_from([b for b in range(1, length + 1) if length % b == 0]))
    plan = BlockPlan(length, size, clean_queries)
    layout = short_layout(plan, 1000)  # heads so wide that the length alone decides
    if layout is None:
        return
    count = torch.zeros(plan.queries, plan.keys, dtype=torch.long)
    attends = layout.bias(torch.float32) == 0
    tile = layout.tile
    for i, width in enumerate(layout.widths):
        noisy = torch.arange(i * tile, (i + 1) * tile)
        query = torch.cat((noisy, noisy + length))[: layout.rows]
        key = torch.cat((torch.arange(width - tile) + length, noisy))
        seen = torch.ones(len(query), len(key), dtype=torch.bool)
        seen[:, -2 * tile :] = attends
        count[query[:, None], key[None, :]] += seen.long()
    assert torch.equal(count, dense_mask(plan).long())


@pytest.mark.parametrize("size", [1, 4, 16])
def test_sequences_of_128_are_short_and_of_1024_are_not(size):
    assert short_layout(BlockPlan(128, size), 64) is not None
    assert short_layout(BlockPlan(1024, size), 64) is None


@pytest.mark.parametrize("clean_queries", [True, False])
def test_what_is_kept_is_at_most_thrice_the_queries(clean_queries, inputs):
    for length in range(8, 520, 8):
        qkv = inputs(length, batch=1, heads=1, dim=16, clean_queries=clean_queries)
        q, k, v = (x.clone().requires_grad_() for x in qkv)
        plain = q.nbytes * 2 + k.nbytes * 2
        saved = saved_bytes(lambda qkv=(q, k, v): block_attention(*qkv, block_size=4, backend="cpu"))
        assert plain <= saved <= plain + 3 * q.nbytes, length


def test_the_number_of_threads_may_change_before_the_backward_pass(inputs):
    qkv = [x.requires_grad_() for x in inputs(128, batch=4, heads=8)]
    wanted = torch.autograd.grad(block_attention(*qkv, block_size=4, backend="cpu").sum(), qkv)
    out = block_attention(*qkv, block_size=4, backend="cpu").sum()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        got = torch.autograd.grad(out, qkv)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(got, wanted)
