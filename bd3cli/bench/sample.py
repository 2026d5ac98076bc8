"""`bench sample`: tokens a second with and without the cache, and of a batch against single rows."""

from __future__ import annotations

import time
from typing import Any

import torch

from bd3cli.bench.timing import environment, threads
from bd3cli.model import Transformer, TransformerConfig
from bd3cli.recipes.families import BLOCK_DIFFUSION, get_family
from bd3cli.sampling.base import Request, ignore
from bd3cli.sampling.registry import choose_sampler, sampler_class

TAIL = 32  # tokens the uncached sampler is timed on: the whole would take hours at length 1024


@torch.inference_mode()
def bench_sample(
    *,
    family: str = BLOCK_DIFFUSION.name,
    length: int,
    block_size: int,
    hidden_size: int,
    blocks: int,
    heads: int,
    vocab_size: int,
    batch_size: int = 8,
    repeats: int = 3,
    thread_count: int = 1,
    last: int | None = None,
) -> dict[str, Any]:
    """Random weights, float32. The uncached sampler is timed over its last 32 tokens, the others over all.

    With one thread, seconds are that thread's own: what else the machine does is not counted.

    Args:
        last: time the cached sampler over this many last tokens only, where its context is longest.
    """
    of = get_family(family)
    size = of.block_size(block_size, length)
    config = TransformerConfig(of.name, vocab_size, vocab_size - 1, length, size, hidden_size, blocks, heads)
    torch.manual_seed(0)
    model = Transformer(config, "reference").eval()
    torch.nn.init.normal_(model.output_layer.linear.weight, std=0.02)
    sampler = choose_sampler(config)
    prompt = tuple(torch.randint(0, vocab_size - 1, (length - TAIL,)).tolist())
    tail = Request(length, prompt, sampler, cached=False)
    given = torch.randint(0, vocab_size - 1, (1 if last is None else length - last,))
    whole = Request(length, tuple(given.tolist()), sampler)
    clock = time.thread_time if thread_count == 1 else time.perf_counter

    def rate(request: Request, rows: int) -> float:
        batch = sampler_class(sampler)(model, request, list(range(rows)))
        batch.step(ignore)  # takes in the prompt
        before, start = int(batch.rows.nfe.sum()), clock()
        done = 0
        while batch.rows:
            batch.step(ignore)
            done += sum(row.nfe for row in batch.finish())
        return (done - before) / (clock() - start)  # an evaluation reveals one token

    rates: dict[str, list[float]] = {"uncached": [], "single": [], "batch": []}
    with threads(thread_count):
        for _ in range(repeats):  # in turn: what disturbs the machine disturbs all alike
            rates["uncached"].append(rate(tail, 1))
            rates["single"].append(rate(whole, 1))
            rates["batch"].append(rate(whole, batch_size))
        where = environment()
    what = f"uncached timed over its last {TAIL} tokens, the others over " + (f"the last {last}" if last else "all")
    what += "; CPU seconds of the thread" if thread_count == 1 else "; wall seconds"
    median = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
    return {
        "config": {
            "family": family, "length": length, "block_size": size, "hidden_size": hidden_size, "blocks": blocks,
            "heads": heads, "vocab_size": vocab_size, "batch_size": batch_size,
        },
        "tokens_per_second": median,
        "ratio": {
            "cached_over_uncached": median["single"] / median["uncached"],
            "batch_over_single": median["batch"] / median["single"],
        },
        "all_tokens_per_second": rates,
        "environment": where | {"method": f"medians of {repeats} turns; {what}"},
    }  # fmt: skip
