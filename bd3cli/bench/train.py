"""`bench train`: a whole optimizer step against the research code's way of doing it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from bd3cli.attention import Choice, choose_backend
from bd3cli.bench.profile import profile_step
from bd3cli.bench.reference_step import LoopedAverage, reference_loss, unfused_optimizer
from bd3cli.bench.timing import environment, interleaved, peak_memory, ratio, threads
from bd3cli.device import Precision
from bd3cli.diffusion.batch import Batch, weighted_nll
from bd3cli.diffusion.objective import Objective
from bd3cli.maskings import MaskNoise
from bd3cli.model import Transformer, TransformerConfig
from bd3cli.recipes.settings import ObjectiveConfig, TrainConfig
from bd3cli.training.optimizer import make_average, make_optimizer

Step = Callable[[], float]
_PRECISIONS = {"both": ("fp32", "bf16"), "fp32": ("fp32",), "bf16": ("bf16",)}
CPU = torch.device("cpu")


def bench_train(
    *,
    length: int,
    block_size: int,
    hidden_size: int,
    blocks: int,
    heads: int,
    vocab_size: int,
    batch_size: int,
    precision: str = "both",
    attention: str = "auto",
    repeats: int = 5,
    thread_count: int = 1,
) -> dict[str, Any]:
    """Seconds a step of ours in float32 and bfloat16, against the reference path in the same precisions.

    Dropout is 0, tokens are random, masks are drawn by `bernoulli` under the linear schedule as the paper does.
    """
    model, batch, backend = _problem(length, block_size, hidden_size, blocks, heads, vocab_size, batch_size, attention)
    names = _PRECISIONS[precision]
    steps: dict[str, Step] = {"reference_fp32": reference_step(copy.deepcopy(model), batch, "fp32")}
    for name in names:
        steps[f"ours_{name}"] = our_step(copy.deepcopy(model), batch, name)
        steps.setdefault(f"reference_{name}", reference_step(copy.deepcopy(model), batch, name))
    with threads(thread_count):
        losses = {name: step() for name, step in steps.items()}
        times = interleaved(steps, repeats)
        memory = {name: peak_memory(step) for name, step in steps.items()}
        where = environment()
    return {
        "config": _described(model, batch_size),
        "attention": {"backend": backend.name, "reason": backend.reason},
        "loss": losses,
        "seconds": {name: t.median for name, t in times.items()},
        "peak_bytes": memory,
        "ratio": {name: ratio(times["reference_fp32"], times[f"ours_{name}"]) for name in names},
        "ratio_same_precision": {
            name: ratio(times[f"reference_{name}"], times[f"ours_{name}"]) for name in names
        },
        "repeats": repeats,
        "environment": where,
    }  # fmt: skip


def profile_train(
    *,
    length: int,
    block_size: int,
    hidden_size: int,
    blocks: int,
    heads: int,
    vocab_size: int,
    batch_size: int,
    precision: str = "both",
    attention: str = "auto",
    repeats: int = 5,
    thread_count: int = 1,
) -> dict[str, Any]:
    """Where the time of a step of ours goes, for the arguments of `bench_train`; see `profile_step`.

    ``data_seconds`` is the time to draw the masks of a batch and lay it out; training does that in another thread.
    """
    model, batch, backend = _problem(length, block_size, hidden_size, blocks, heads, vocab_size, batch_size, attention)
    with threads(thread_count):
        profiles = {
            name: profile_step(our_step(copy.deepcopy(model), batch, name), repeats) for name in _PRECISIONS[precision]
        }
        drawn = interleaved({"data": lambda: random_batch(model.config, batch_size)}, repeats)
        where = environment()
    return {
        "config": _described(model, batch_size),
        "attention": {"backend": backend.name, "reason": backend.reason},
        "profile": profiles,
        "data_seconds": drawn["data"].median,
        "repeats": repeats,
        "environment": where
        | {"method": "median step, its parts in proportion to one step under PyTorch's profiler; matrix products "
            "of the same shapes timed alone, in turn with the steps"},
    }  # fmt: skip


def _problem(
    length: int, block_size: int, hidden_size: int, blocks: int, heads: int, vocab_size: int, batch_size: int,
    attention: str,
) -> tuple[Transformer, Batch, Choice]:  # fmt: skip
    """A network and a batch of random tokens."""
    config = TransformerConfig(
        "bd3lm", vocab_size, vocab_size - 1, length, block_size, hidden_size, blocks, heads, 128, dropout=0.0
    )
    backend = choose_backend(attention, CPU, torch.float32)
    torch.manual_seed(0)
    model = Transformer(config, backend.name).train()
    with torch.no_grad():  # not the zeros of a fresh network, so that the losses mean something
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    batch = random_batch(config, batch_size)
    return model, batch, backend


def _described(model: Transformer, batch_size: int) -> dict[str, Any]:
    c = model.config
    return {
        "length": c.length, "block_size": c.block_size, "hidden_size": c.hidden_size, "blocks": c.blocks,
        "heads": c.heads, "vocab_size": c.vocab_size, "batch_size": batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def random_batch(config: TransformerConfig, batch_size: int) -> Batch:
    """Random tokens under the paper's masking."""
    tokens = torch.randint(0, config.vocab_size - 1, (batch_size, config.length))
    assert config.mask_id is not None
    objective = Objective.build(ObjectiveConfig(masking="bernoulli"), config.mask_id, config.block_size)
    noise = MaskNoise.draw(batch_size, config.length, config.block_size, 0, "bench")
    return objective.batch(tokens, torch.ones_like(tokens, dtype=torch.bool), noise, 0.0).to(CPU)


def our_step(model: Transformer, batch: Batch, precision: str) -> Step:
    """One update as `bd3cli train` does it."""
    average = make_average(model, 0.9999)
    optimizer = make_optimizer(model.parameters(), TrainConfig())
    return _step(model, optimizer, precision, batch, lambda: weighted_nll(model, batch)[0], average.update_parameters)


def reference_step(model: Transformer, batch: Batch, precision: str) -> Step:
    """One update as the research code does it."""
    average, length = LoopedAverage(model), model.config.length
    loss = partial(reference_loss, model, batch, length)
    return _step(model, unfused_optimizer(model), precision, batch, loss, average.update)


def _step(
    model: Transformer,
    optimizer: torch.optim.AdamW,
    precision: str,
    batch: Batch,
    loss_sum: Callable[[], Tensor],
    update_average: Callable[[Transformer], None],
) -> Step:
    """A function that makes one update and returns the loss in nats per token."""
    autocast = Precision(precision, "bench")

    def step() -> float:
        with autocast.autocast(CPU):
            loss = loss_sum() / batch.x_t.numel()
        loss.backward()
        with record_function("optimizer"):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with record_function("average"):
            update_average(model)
        return loss.item()

    return step
