"""The parts of a training run, put together from a recipe and taken up again from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from bd3cli.attention import choose_backend
from bd3cli.config import Recipe
from bd3cli.data import PackedSplit, Tokenizer, load_split, load_tokenizer
from bd3cli.device import Precision, choose_device, choose_precision
from bd3cli.diffusion.objective import Objective
from bd3cli.errors import InputError
from bd3cli.model import Transformer, TransformerConfig, load_tensors
from bd3cli.rng import derive_seed
from bd3cli.training.batches import DataOrder
from bd3cli.training.checkpoints import Checkpoint
from bd3cli.training.learned import LearnedMasking
from bd3cli.training.optimizer import make_average, make_optimizer, make_warmup
from bd3cli.training.reporter import Reporter


@dataclass
class Trainer:
    """The moving parts of a run, held together for the loop and its checkpoints.

    Attributes:
        learned: what the masking has learned, None for one that learns nothing.
        step: optimizer steps done.
        masked_tokens: tokens that carried loss so far (for ``ar``, every one it predicted).
    """

    recipe: Recipe
    device: torch.device
    precision: Precision
    model: Transformer
    average: AveragedModel | None
    optimizer: torch.optim.AdamW
    warmup: torch.optim.lr_scheduler.LambdaLR
    objective: Objective
    tokenizer: Tokenizer
    train: PackedSplit
    validation: PackedSplit
    network: Callable[..., Tensor]
    order: DataOrder
    learned: LearnedMasking | None = None
    step: int = 0
    masked_tokens: int = 0

    @property
    def evaluated(self) -> Transformer:
        """The weights used in evaluation: the average when there is one."""
        averaged = self.model if self.average is None else self.average.module
        assert isinstance(averaged, Transformer)
        return averaged

    def objective_at(self, step: int) -> Objective:
        """The objective of a step counted from 0; for the step at hand and the next."""
        return self.objective if self.learned is None else replace(self.objective, masking=self.learned.masking(step))

    def progress_state(self) -> dict[str, Any]:
        """What a checkpoint holds besides weights and optimizer."""
        learned = None if self.learned is None else self.learned.state_dict()
        return {"masked_tokens": self.masked_tokens, "masking": learned}

    def load_progress_state(self, state: dict[str, Any]) -> None:
        self.masked_tokens = int(state["masked_tokens"])
        if self.learned is not None:
            self.learned.load_state_dict(state["masking"])


def prepare(recipe: Recipe, reporter: Reporter) -> Trainer:
    """Data, network, objective and optimizer of a recipe; nothing is written yet."""
    device = choose_device(recipe.train.device)
    tokenizer = load_tokenizer(recipe.data.tokenizer)
    objective = Objective.build(
        recipe.objective, tokenizer.mask_id, recipe.block_size, time_conditioning=recipe.time_conditioning
    )
    config = network_config(recipe, tokenizer)
    choice = choose_backend(recipe.train.attention, device, torch.float32)
    splits = {
        name: load_split(recipe.data, name, recipe.model.length, progress=reporter.data)
        for name in ("train", "validation")
    }
    if recipe.objective.family != "ar":
        objective = replace(objective, token_counts=token_counts(splits["train"], tokenizer.vocab_size))
    torch.manual_seed(derive_seed(recipe.seed, "initialisation"))
    model = Transformer(config, choice.name).to(device)
    optimizer = make_optimizer(model.parameters(), recipe.train)
    if recipe.train.warmup > recipe.warmup_steps:
        reporter.notice(
            f"train.warmup {recipe.train.warmup} is longer than a tenth of {recipe.train.steps} steps; "
            f"warming up for {recipe.warmup_steps}."
        )
    return Trainer(
        recipe=recipe,
        device=device,
        precision=choose_precision(recipe.train.precision, device),
        model=model,
        average=make_average(model, recipe.train.ema) if recipe.train.ema else None,
        optimizer=optimizer,
        warmup=make_warmup(optimizer, recipe),
        objective=objective,
        tokenizer=tokenizer,
        train=splits["train"],
        validation=splits["validation"],
        network=torch.compile(model) if recipe.train.compile else model,
        order=DataOrder(len(splits["train"]), recipe.train.batch_size, recipe.seed),
        learned=LearnedMasking.of(objective.masking, recipe.block_size),
    )


def network_config(recipe: Recipe, tokenizer: Tokenizer) -> TransformerConfig:
    m = recipe.model
    return TransformerConfig(
        family=recipe.objective.family,
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.mask_id,
        length=m.length,
        block_size=recipe.block_size,
        hidden_size=m.hidden_size,
        blocks=m.blocks,
        heads=m.heads,
        cond_dim=m.cond_dim,
        dropout=m.dropout,
        time_conditioning=recipe.time_conditioning,
    )


def token_counts(split: PackedSplit, vocab_size: int) -> Tensor:
    """How often each id occurs in a split, [V]; for maskings that look at frequencies."""
    counts = torch.zeros(vocab_size, dtype=torch.long)
    for start in range(0, len(split), 4096):
        part = list(range(start, min(start + 4096, len(split))))
        ids = torch.from_numpy(split.tokens(part))[torch.from_numpy(split.valid(part))]
        counts += torch.bincount(ids, minlength=vocab_size)
    return counts


def facts(trainer: Trainer) -> dict[str, Any]:
    """What the run record says about choices made at start."""
    choice = choose_backend(trainer.recipe.train.attention, trainer.device, torch.float32)
    return {
        "device": str(trainer.device),
        "precision": {"name": trainer.precision.name, "reason": trainer.precision.reason},
        "attention": {"backend": choice.name, "reason": choice.reason},
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "warmup_steps": trainer.recipe.warmup_steps,
        "tokenizer": {"name": trainer.tokenizer.name, "fingerprint": trainer.tokenizer.fingerprint},
        "data": {
            name: {"fingerprint": split.fingerprint, **split.description}
            for name, split in (("train", trainer.train), ("validation", trainer.validation))
        },
    }


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's state back into the trainer."""
    source = str(checkpoint.path)
    load_tensors(trainer.model, checkpoint.weights(average=False), source)
    states = checkpoint.optimizer()
    trainer.optimizer.load_state_dict(states["optimizer"])
    trainer.warmup.load_state_dict(states["warmup"])
    trainer.load_progress_state(states["progress"])
    if trainer.average is not None:
        load_tensors(trainer.evaluated, checkpoint.weights(average=True), source)
        counter = trainer.average.n_averaged
        assert isinstance(counter, Tensor)
        counter.fill_(checkpoint.step)
    trainer.step = checkpoint.step


def check_data_unchanged(record: dict[str, Any], trainer: Trainer) -> None:
    """Refuse to resume on other data than the run began with."""
    for name, split in (("train", trainer.train), ("validation", trainer.validation)):
        before = record.get("data", {}).get(name, {}).get("fingerprint")
        if before != split.fingerprint:
            raise InputError(
                f"The {name} data have changed since this run began (fingerprint {split.fingerprint[:12]}, "
                f"recorded {str(before)[:12]}). Restore them, or start a new run."
            )
