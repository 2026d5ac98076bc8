"""`torch.compile` takes the merging backends as one operator."""

from __future__ import annotations

import pytest
import torch

from bd3cli.attention import block_attention
from bd3cli.errors import InputError


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["cpu", "aten", "auto"])
@pytest.mark.parametrize("clean_queries", [True, False])
def test_one_graph_with_the_same_results(backend, clean_queries, inputs):
    def loss(q, k, v):
        return (block_attention(q * 2, k, v, block_size=4, backend=backend) * 3).square().sum()

    qkv = [x.requires_grad_() for x in inputs(24, clean_queries=clean_queries)]
    wanted = loss(*qkv)
    wanted_grads = torch.autograd.grad(wanted, qkv)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    got = compiled(*qkv)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(torch.autograd.grad(got, qkv), wanted_grads)


def test_the_operators_are_well_formed(inputs):
    q, k, v = (x.requires_grad_() for x in inputs(20, batch=1, dim=4))
    torch.library.opcheck(torch.ops.bd3cli.block_attention.default, (q, k, v, 4, "cpu"))
    torch.library.opcheck(torch.ops.bd3cli.block_attention.default, (q, k, v, 20, "aten"))


def test_reference_is_compiled_for_what_it_is(inputs):
    q, k, v = inputs(16)
    compiled = torch.compile(lambda *x: block_attention(*x, block_size=4, backend="reference"), backend="eager")
    torch.testing.assert_close(compiled(q, k, v), block_attention(q, k, v, block_size=4, backend="reference"))


def test_auto_without_a_merging_backend_says_what_to_pass(inputs):
    q, k, v = (x.half() for x in inputs(16))
    with pytest.raises(InputError, match="backend='reference'"):
        torch.ops.bd3cli.block_attention(q, k, v, 4, "auto")
