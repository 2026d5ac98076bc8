"""The CPU backend's parts hold every visible pair once and no hidden pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bd3cli.attention.cpu.layout import FULL_PRECISION, HALF_PRECISION, MAX_KEYS, layout_for, padded_length
from bd3cli.attention.plan import BlockPlan, dense_mask


def rows_of(runs, i):
    start = runs.start + i * runs.stride
    return torch.arange(start, start + runs.width)


def times_attended(plan, group, sizes=FULL_PRECISION):
    """[queries, 2L]: in how many parts each pair attends."""
    layout = layout_for(plan, sizes)
    count = torch.zeros(plan.queries, plan.keys, dtype=torch.long)
    seen_queries, seen_keys = set(), set()
    for part in layout.parts(group):
        attends = torch.ones(part.queries.width, part.keys.width, dtype=torch.bool)
        bias = layout.bias(part, torch.float32)
        if bias is not None:
            attends[:, -bias.shape[1] :] = bias == 0
        queries = [layout.position(rows_of(part.queries, i)) for i in range(part.queries.count)]
        keys = [rows_of(part.keys, i) + part.clean * plan.length for i in range(part.keys.count)]
        for q, k in zip(queries, keys, strict=True):
            count[q[:, None], k[None, :]] += attends.long()
        own_queries, own_keys = set(torch.cat(queries).tolist()), set(torch.cat(keys).tolist())
        if part.first_for_queries:
            assert not own_queries & seen_queries
        if part.first_for_keys:
            assert not own_keys & seen_keys
        seen_queries |= own_queries
        seen_keys |= own_keys
    return count


@pytest.mark.parametrize("sizes", [FULL_PRECISION, HALF_PRECISION])
@given(length=st.integers(1, 400), group=st.sampled_from([1, 2]), clean_queries=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_hold_each_visible_pair_once(sizes, length, group, clean_queries, data):
    size = data.draw(st.sampled_from([b for b in range(1, length + 1) if length % b == 0]))
    length = padded_length(BlockPlan(length, size, clean_queries), sizes)
    plan = BlockPlan(length, size, clean_queries)
    assert torch.equal(times_attended(plan, group, sizes), dense_mask(plan).long())


@given(length=st.integers(1, 3000), data=st.data())
@settings(deadline=None)
def test_padding_is_whole_blocks_and_less_than_a_step(length, data):
    size = data.draw(st.sampled_from([b for b in range(1, length + 1) if length % b == 0]))
    padded = padded_length(BlockPlan(length, size))
    assert length <= padded < length + FULL_PRECISION.step
    assert padded % size == 0


def test_very_wide_blocks_are_cut_to_a_bounded_number_of_keys():
    plan = BlockPlan(2 * MAX_KEYS + 200, 2 * MAX_KEYS + 200)
    assert torch.equal(times_attended(plan, 2), dense_mask(plan).long())
    assert max(part.keys.width for part in layout_for(plan).parts(2)) <= MAX_KEYS


@pytest.mark.parametrize("size", [1, 4, 16, 128])
def test_work_is_about_a_quarter_of_a_dense_mask_and_masks_do_not_grow(size):
    plan = BlockPlan(8192, size)
    layout = layout_for(plan)
    parts = layout.parts(1)
    pairs = sum(p.queries.count * p.queries.width * p.keys.width for p in parts)
    assert pairs < 1.1 * plan.length**2
    assert len(parts) < 64
    assert max((p.queries.width * p.keys.width for p in parts if p.masked), default=0) <= 2**13
