"""Estimate the memory that training needs, before its first step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from bd3cli.diffusion.cross_entropy import GROUP, SLICE_BYTES, slice_rows
from bd3cli.errors import InputError
from bd3cli.model import Transformer, TransformerConfig
from bd3cli.recipes.settings import Recipe
from bd3cli.training.distributed import Group
from bd3cli.training.reporter import Reporter

ACCURACY = 1.4  # measured peaks lie within this factor of the estimate, see docs/training.md

# Bytes that a transformer block keeps for its backward pass, for every position and unit of width: the normalised and
# modulated inputs of attention and MLP, queries, keys, values and their result, the MLP's four-fold hidden layer
# before and after its nonlinearity, and each branch's output. Measured with saved-tensor hooks, which a test repeats.
KEPT = {("fp32", False): 68, ("fp32", True): 84, ("bf16", False): 43, ("bf16", True): 58}
KEPT_BY_DROPOUT = {"fp32": 8, "bf16": 4}
LIVE = 96  # the same of one block at work: its results, and in the backward pass their gradients
HEAD = 16  # the same for the scored half after the last block: final normalisation, chosen rows, their gradient


@dataclass(frozen=True)
class Need:
    """Bytes one process needs.

    Attributes:
        state: weights, gradients, AdamW's two moments, the weight average.
        activations: what `rows` sequences keep for the backward pass, and what one block works with.
        logits: slices of them, and the gradient of the output layer.
        rows: sequences a forward pass.
    """

    state: int
    activations: int
    logits: int
    rows: int

    @property
    def total(self) -> int:
        return self.state + self.activations + self.logits


def estimate(
    config: TransformerConfig, parameters: int, rows: int, precision: str, *, average: bool, shards: int = 1
) -> Need:
    """What training a network takes.

    Args:
        rows: sequences a forward pass of one process.
        precision: ``fp32`` or ``bf16``.
        average: whether a weight average is kept.
        shards: processes that hold a share of the state each (FSDP2).
    """
    held = 4 * (5 if average else 4) * parameters  # weights, gradients, two moments, average: float32
    state = held if shards == 1 else held // shards + 8 * parameters  # gathered weights and their gradients
    if precision == "bf16":
        state += 2 * parameters  # autocast keeps the weights it has cast
    halves = 2 if config.two_halves else 1
    row = config.length * config.hidden_size
    kept = KEPT[precision, config.traits.modulated] + (KEPT_BY_DROPOUT[precision] if config.dropout else 0)
    layers = halves * (config.blocks - 1) + 1  # the last block works on one half
    activations = rows * row * (kept * layers + LIVE * halves + HEAD)
    scored = rows * config.length * config.vocab_size * 4
    one = min(SLICE_BYTES, scored, 4 * config.vocab_size * slice_rows(config.vocab_size))
    logits = 3 * one + 4 * config.vocab_size * config.hidden_size
    if precision == "bf16":  # slices kept for one product, and the product
        logits += min(GROUP * one, scored) // 2 + 2 * config.vocab_size * config.hidden_size
    return Need(state, activations, logits, rows)


def available(device: torch.device, processes: int = 1) -> int | None:
    """Bytes free for one of `processes` on this machine; None where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = [size for size in (_free_in_system(), _free_in_group()) if size is not None]
    return min(known) // processes if known else None


def _free_in_system() -> int | None:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # all there is: better than no limit
    except (ValueError, OSError, AttributeError):
        return None


def _free_in_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves; page cache counts as free."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used = int((folder / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
        return max(int(limit) - used, 0)
    except (OSError, ValueError):
        return None


def check_memory(
    recipe: Recipe, config: TransformerConfig, device: torch.device, precision: str, group: Group, reporter: Reporter
) -> Need:
    """Refuse, or warn of, training that does not fit the memory that is free; nothing is built yet.

    Raises:
        InputError: it cannot fit, with the micro-batch size that would.
    """
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Transformer(config).parameters())
    share = recipe.train.batch_size // group.size
    rows = min(recipe.train.micro_batch_size or share, share)
    shards = group.size if recipe.train.parallel == "fsdp" else 1
    average = bool(recipe.train.ema)
    need = estimate(config, parameters, rows, precision, average=average, shards=shards)
    free = available(device, group.local_size if device.type == "cpu" else 1)
    if free is None or need.total <= free:
        return need
    message = (
        f"Training takes about {_gb(need.total)}: {_gb(need.state)} for weights, gradients, optimizer and average, "
        f"{_gb(need.activations + need.logits)} for {rows} sequences of {config.length} tokens a forward pass. "
        f"{device} has {_gb(free)} free. {_remedy(config, parameters, need, precision, average, shards, share, free)}"
    )
    if need.total > ACCURACY * free and recipe.train.check_memory:
        raise InputError(f"{message} To try all the same: --set train.check_memory=false.")
    reporter.notice(message)
    return need


def _remedy(
    config: TransformerConfig, parameters: int, need: Need, precision: str, average: bool, shards: int, share: int,
    free: int,
) -> str:  # fmt: skip
    for rows in (r for r in range(need.rows - 1, 0, -1) if share % r == 0):
        if estimate(config, parameters, rows, precision, average=average, shards=shards).total <= free:
            return (
                f"--set train.micro_batch_size={rows} would fit: {share // rows} forward passes whose gradients are "
                "added up, with the same result."
            )
    return "Not even one sequence at a time would fit: use a smaller network or length, or FSDP2 over more processes."


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
