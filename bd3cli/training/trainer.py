"""The parts of a training run, built from a recipe and restored from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bd3cli.attention import choose_backend
from bd3cli.data import PackedSplit, Tokenizer, load_split, load_tokenizer
from bd3cli.device import Precision, choose_device, choose_precision
from bd3cli.diffusion.batch import Batch, weighted_nll
from bd3cli.diffusion.objective import Objective
from bd3cli.errors import InputError
from bd3cli.model import Transformer
from bd3cli.model.config import network_config
from bd3cli.model.state import require_fit
from bd3cli.recipes.settings import Recipe
from bd3cli.records import parse
from bd3cli.rng import seed_torch
from bd3cli.runs.checkpoint import Checkpoint
from bd3cli.runs.records import OptimizerState, RunRecord, SavedProgress, SplitFacts, WarmupState
from bd3cli.sampling.stopping import entropy_rule
from bd3cli.training.batches import DataOrder
from bd3cli.training.clip_search import ClipSearch
from bd3cli.training.distributed import (
    Group,
    choose_parallel,
    full_optimizer_state,
    full_weights,
    parallelise,
    shard,
    spread_optimizer_state,
    spread_weights,
)
from bd3cli.training.learned import LearnedMasking
from bd3cli.training.memory import Need, check_memory
from bd3cli.training.optimizer import make_average, make_optimizer, make_warmup
from bd3cli.training.reporter import Reporter


@dataclass
class Trainer:
    """The moving parts of a run, held together for the loop and its checkpoints.

    Attributes:
        learned: what the masking has learned, None for one that learns nothing.
        search: the clips that were searched for, None where the clip is fixed.
        step: optimizer steps done.
        masked_tokens: tokens that carried loss so far (for ``ar``, every one it predicted).
    """

    recipe: Recipe
    device: torch.device
    precision: Precision
    memory: Need
    model: Transformer
    average: AveragedModel | None
    optimizer: torch.optim.AdamW
    warmup: torch.optim.lr_scheduler.LambdaLR
    objective: Objective
    tokenizer: Tokenizer
    train: PackedSplit
    validation: PackedSplit
    network: Callable[..., Tensor]
    loss: nn.Module
    order: DataOrder
    group: Group
    parallel: str
    learned: LearnedMasking | None = None
    search: ClipSearch | None = None
    step: int = 0
    masked_tokens: int = 0

    @property
    def averaged(self) -> Transformer:
        """The weights used in evaluation: the average when there is one. Sharded under FSDP2."""
        averaged = self.model if self.average is None else self.average.module
        assert isinstance(averaged, Transformer)
        return averaged

    def evaluated(self) -> Transformer:
        """The averaged weights, whole. Under FSDP2 all processes must ask together."""
        return self.unsharded(self.averaged)

    def unsharded(self, model: Transformer) -> Transformer:
        """`model`, or a copy of it whose weights are whole. Under FSDP2 all processes must ask together."""
        if self.parallel != "fsdp":
            return model
        copy = Transformer(model.config, model.attention).to(self.device)
        copy.load_state_dict(full_weights(model))
        return copy

    def objective_at(self, step: int) -> Objective:
        """The objective of a step counted from 0; for the step at hand and the next."""
        objective = self.clipped_at(step)
        return objective if self.learned is None else replace(objective, masking=self.learned.masking(step))

    def clipped_at(self, step: int) -> Objective:
        """The objective with the clip of any step up to the next, and the masking as it was before it learned."""
        return self.objective if self.search is None else self.search.objective(step)

    def progress_state(self) -> SavedProgress:
        """What a checkpoint holds besides weights and optimizer."""
        learned = None if self.learned is None else self.learned.state_dict()
        search = None if self.search is None else self.search.state_dict()
        return {"masked_tokens": self.masked_tokens, "masking": learned, "clip_search": search}

    def load_progress_state(self, state: SavedProgress) -> None:
        """Go on from `state`.

        Raises:
            InputError: it lacks what this run learns or searches, as that of a run that does neither.
        """
        masking, clips = state.get("masking"), state.get("clip_search")
        for needed, found, what in ((self.learned, masking, "its masking"), (self.search, clips, "its search")):
            if needed is not None and found is None:
                raise InputError(f"The checkpoint holds nothing that {what} had found, to go on from.")
        self.masked_tokens = state["masked_tokens"]
        if self.learned is not None and masking is not None:
            self.learned.load_state_dict(masking)
        if self.search is not None and clips is not None:
            self.search.load_state_dict(clips)


class TrainingLoss(nn.Module):
    """The differentiated part of a step as one module, whose whole forward pass DDP and FSDP2 see."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, network: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """`weighted_nll` of a batch; `network` stands in for the model's own forward pass."""
        return weighted_nll(self.model, batch, network)


def prepare(recipe: Recipe, reporter: Reporter, group: Group | None = None) -> Trainer:
    """Data, network, objective and optimizer of a recipe; nothing is written yet."""
    group = group or Group()
    parallel = choose_parallel(recipe.train.parallel, group)
    refuse_unshareable(recipe, group)
    device = group.device(choose_device(recipe.train.device))
    tokenizer = load_tokenizer(recipe.data.tokenizer)
    objective = Objective.build(
        recipe.objective, tokenizer.mask_id, recipe.block_size, time_conditioning=recipe.time_conditioning
    )
    config = network_config(recipe, tokenizer)
    choice = choose_backend(recipe.train.attention, device, torch.float32)
    precision = choose_precision(recipe.train.precision, device)
    memory = check_memory(recipe, config, device, precision.name, group, reporter)
    splits = {
        name: load_split(recipe.data, name, recipe.model.length, progress=reporter.data)
        for name in ("train", "validation")
    }
    if recipe.objective.traits.masks:
        objective = replace(objective, token_counts=token_counts(splits["train"], tokenizer.vocab_size))
    seed_torch(recipe.seed, "initialisation")
    model = Transformer(config, choice.name).to(device)
    average = make_average(model, recipe.train.ema) if recipe.train.ema else None
    loss = parallelise(TrainingLoss(model), model, parallel, device)
    if average is not None and parallel == "fsdp":
        shard(average.module, cast("Transformer", average.module))
    optimizer = make_optimizer(model.parameters(), recipe.train)
    if recipe.train.warmup > recipe.warmup_steps:
        reporter.notice(
            f"train.warmup {recipe.train.warmup} is longer than a tenth of {recipe.horizon} steps; "
            f"warming up for {recipe.warmup_steps}."
        )
    return Trainer(
        recipe=recipe,
        device=device,
        precision=precision,
        memory=memory,
        model=model,
        average=average,
        optimizer=optimizer,
        warmup=make_warmup(optimizer, recipe),
        objective=objective,
        tokenizer=tokenizer,
        train=splits["train"],
        validation=splits["validation"],
        network=torch.compile(model) if recipe.train.compile else model,
        loss=loss,
        order=DataOrder(len(splits["train"]), recipe.train.batch_size, recipe.seed),
        group=group,
        parallel=parallel,
        learned=LearnedMasking.of(objective.masking, recipe.block_size),
        search=ClipSearch.of(objective),
    )


def refuse_unshareable(recipe: Recipe, group: Group) -> None:
    """Refuse a batch that the processes cannot share evenly, and what does not work together.

    Raises:
        InputError: with the numbers.
    """
    if recipe.train.compile and recipe.train.parallel == "fsdp":
        raise InputError("train.compile does not work with train.parallel 'fsdp'. Leave one of them out.")
    if recipe.train.batch_size % group.size:
        raise InputError(
            f"train.batch_size {recipe.train.batch_size} cannot be shared evenly by {group.size} processes. "
            f"Choose a multiple of {group.size}, or another --nproc-per-node."
        )


def token_counts(split: PackedSplit, vocab_size: int) -> Tensor:
    """How often each id occurs in a split, [V]; for maskings that look at frequencies."""
    counts = torch.zeros(vocab_size, dtype=torch.long)
    for start in range(0, len(split), 4096):
        part = list(range(start, min(start + 4096, len(split))))
        ids = torch.from_numpy(split.tokens(part))[torch.from_numpy(split.valid(part))]
        counts += torch.bincount(ids, minlength=vocab_size)
    return counts


def described(record: RunRecord, trainer: Trainer) -> RunRecord:
    """`record` with the choices made at start."""
    choice = choose_backend(trainer.recipe.train.attention, trainer.device, torch.float32)
    splits = (("train", trainer.train), ("validation", trainer.validation))
    return replace(
        record,
        device=str(trainer.device),
        memory_estimate=trainer.memory.total,
        processes={"number": trainer.group.size, "parallel": trainer.parallel},
        precision={"name": trainer.precision.name, "reason": trainer.precision.reason},
        attention={"backend": choice.name, "reason": choice.reason},
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        horizon=trainer.recipe.horizon,
        warmup_steps=trainer.recipe.warmup_steps,
        tokenizer={"name": trainer.tokenizer.name, "fingerprint": trainer.tokenizer.fingerprint},
        entropy_stop=entropy_rule(trainer.train, trainer.tokenizer),
        data={
            name: parse(SplitFacts, {"fingerprint": split.fingerprint, **split.description}, name)
            for name, split in splits
        },
    )


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds for training to go on, read and found to fit."""

    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: OptimizerState
    warmup: WarmupState
    progress: SavedProgress


def full_state(trainer: Trainer) -> SavedState:
    """The trainer's state, whole, for the leader to write. All processes must ask together."""
    return SavedState(
        step=trainer.step,
        model=full_weights(trainer.model, to_leader=True),
        average=full_weights(trainer.averaged, to_leader=True) if trainer.average is not None else None,
        optimizer=cast("OptimizerState", full_optimizer_state(trainer.model, trainer.optimizer)),
        warmup=cast("WarmupState", trainer.warmup.state_dict()),
        progress=trainer.progress_state(),
    )


def read_state(trainer: Trainer, checkpoint: Checkpoint) -> SavedState:
    """Read a checkpoint to go on from.

    Raises:
        InputError: it cannot be read, or does not fit the trainer.
    """
    source = str(checkpoint.path)
    model, states, progress = checkpoint.weights(average=False), checkpoint.optimizer(), checkpoint.progress()
    optimizer, warmup = states["optimizer"], states["warmup"]
    require_fit(trainer.model, model, source)
    average = None
    if trainer.average is not None:
        average = checkpoint.weights(average=True)
        require_fit(trainer.averaged, average, source)
    if not belongs(optimizer, [p.shape for p in trainer.model.parameters()]) or warmup["last_epoch"] < 0:
        raise InputError(f"The optimizer state of {source} belongs to another network: its shapes differ.")
    return SavedState(checkpoint.step, model, average, optimizer, warmup, progress)


def belongs(optimizer: OptimizerState, shapes: list[torch.Size]) -> bool:
    """Whether an optimizer's state is of parameters of these shapes, all in one group, with a count of steps."""
    numbers = list(range(len(shapes)))
    return (
        [group["params"] for group in optimizer["param_groups"]] == [numbers]
        and sorted(optimizer["state"]) == numbers
        and all(
            one["exp_avg"].shape == one["exp_avg_sq"].shape == shapes[i]
            and one["step"].numel() == 1
            and one["step"].isreal().item()
            and one["step"].item() >= 0
            for i, one in optimizer["state"].items()
        )
    )


def restore(trainer: Trainer, saved: SavedState | None) -> None:
    """Put the leader's `saved` state, None elsewhere, into every process's trainer."""
    group = trainer.group
    known = group.from_leader((saved.step, saved.warmup, saved.progress) if saved else None)
    assert known is not None, "the leader has read a checkpoint"
    step, warmup, progress = known
    spread_weights(group, trainer.model, saved.model if saved else {})
    spread_optimizer_state(group, trainer.model, trainer.optimizer, dict(saved.optimizer) if saved else {})
    trainer.warmup.load_state_dict(dict(warmup))
    if trainer.average is not None:
        spread_weights(group, trainer.averaged, (saved.average or {}) if saved else {})
        counter = trainer.average.n_averaged
        assert isinstance(counter, Tensor)
        counter.fill_(step)
    try:
        trainer.load_progress_state(progress)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"What was learned by step {step} cannot be restored: {error!r}.") from error
    trainer.step = step


def check_data_unchanged(record: RunRecord, trainer: Trainer) -> None:
    """Refuse to resume on other data, or with another tokenizer, than the run began with."""
    known, tokenizer = record.fingerprint, trainer.tokenizer
    if known != tokenizer.fingerprint:
        raise InputError(
            f"The tokenizer {tokenizer.name!r} is not the one this run began with (fingerprint "
            f"{tokenizer.fingerprint[:12]}, recorded {str(known)[:12]}). Restore the original, or start a new run."
        )
    for name, split in (("train", trainer.train), ("validation", trainer.validation)):
        before = record.data.get(name, SplitFacts()).fingerprint
        if before != split.fingerprint:
            raise InputError(
                f"The {name} data have changed since this run began (fingerprint {split.fingerprint[:12]}, "
                f"recorded {str(before)[:12]}). Restore them, or start a new run."
            )
