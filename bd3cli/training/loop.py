"""The training loop, whole and in one place.

Everything random is a pure function of the seed and the step (data order, masks, dropout), so a resumed run
is the uninterrupted run: there is no generator state to save.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bd3cli.attention import choose_backend
from bd3cli.config import Recipe
from bd3cli.data import PackedSplit, Tokenizer, load_split, load_tokenizer
from bd3cli.device import Precision, choose_device, choose_precision
from bd3cli.diffusion.batch import maskable, weighted_nll
from bd3cli.diffusion.objective import Objective
from bd3cli.errors import InputError, RunError
from bd3cli.evaluation import Likelihood, likelihood
from bd3cli.maskings import MaskNoise
from bd3cli.model import Transformer, TransformerConfig, load_tensors
from bd3cli.resolve import Resolved
from bd3cli.rng import derive_seed
from bd3cli.training.batches import DataOrder
from bd3cli.training.checkpoints import Checkpoint, CheckpointStore
from bd3cli.training.optimizer import make_average, make_optimizer, make_warmup
from bd3cli.training.record import RunDirectory, new_record


class Reporter(Protocol):
    """What the loop tells whoever watches. The command line draws it; a library user may ignore it."""

    def notice(self, text: str) -> None: ...

    def data(self, stage: str, done: int, total: int) -> None: ...

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None: ...

    def validation(self, step: int, result: Likelihood) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def notice(self, text: str) -> None:
        pass

    def data(self, stage: str, done: int, total: int) -> None:
        pass

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        pass

    def validation(self, step: int, result: Likelihood) -> None:
        pass


@dataclass(frozen=True)
class TrainResult:
    """How training ended.

    Attributes:
        status: ``finished`` or ``interrupted``.
        signal: the signal that interrupted it, or None.
        validation: the last validation, or None when it never came to one.
    """

    run: Path
    status: str
    step: int
    signal: int | None
    validation: Likelihood | None


@dataclass
class Trainer:
    """The moving parts of a run, held together for the loop and its checkpoints."""

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
    step: int = 0

    @property
    def evaluated(self) -> Transformer:
        """The weights used in evaluation: the average when there is one."""
        averaged = self.model if self.average is None else self.average.module
        assert isinstance(averaged, Transformer)
        return averaged


def train(
    resolved: Resolved,
    out: Path,
    *,
    argv: list[str] | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train a model as `resolved` says, in the run directory `out`.

    Raises:
        InputError: the recipe, the data or the run directory cannot be used.
        RunError: training failed: non-finite loss, or a checkpoint could not be written.
    """
    reporter = reporter or Silent()
    recipe, run = resolved.recipe, RunDirectory(out)
    trainer = prepare(recipe, reporter)
    store = CheckpointStore(run.checkpoints, recipe.train.keep_checkpoints)
    if resume:
        check_data_unchanged(run.read_record(), trainer)
        checkpoint, refused = store.load_latest_good()
        for text in refused:
            reporter.notice(f"Passed over a checkpoint: {text}")
        restore(trainer, checkpoint)
        run.rewind_metrics(trainer.step)
        resumes = [*run.read_record().get("resumes", []), {"step": trainer.step, "argv": argv or []}]
        run.update_record(status="running", resumes=resumes, recipe=resolved.values())
    else:
        run.create(resolved, new_record(resolved, argv or [], **facts(trainer)))
    try:
        result = run_steps(trainer, run, store, reporter)
    except BaseException:
        run.update_record(status="failed", step=trainer.step)
        raise
    summary = result.validation.summary() if result.validation else None
    run.update_record(status=result.status, step=result.step, validation=summary)
    return result


def run_steps(trainer: Trainer, run: RunDirectory, store: CheckpointStore, reporter: Reporter) -> TrainResult:
    """The loop itself."""
    recipe, t = trainer.recipe, trainer.recipe.train
    order = DataOrder(len(trainer.train), t.batch_size, recipe.seed)
    result: Likelihood | None = None
    with stop_signals() as stopped:
        clock, tokens = time.perf_counter(), 0
        while trainer.step < t.steps:
            loss, norm, predicted = optimizer_step(trainer, order.indices(trainer.step))
            tokens += predicted
            trainer.step += 1
            step, last = trainer.step, trainer.step == t.steps

            if step % t.log_every == 0 or last or step == 1:
                elapsed = time.perf_counter() - clock
                metrics: dict[str, float] = {
                    "loss": loss.item(),
                    "gradient_norm": norm.item(),
                    "learning_rate": float(trainer.warmup.get_last_lr()[0]),
                    "tokens_per_second": tokens / elapsed,
                }
                refuse_nonfinite(metrics, trainer, order.indices(step - 1))
                run.append_metrics({"step": step, **metrics})
                reporter.step(step, t.steps, metrics)
                clock, tokens = time.perf_counter(), 0

            validated = None
            if step % t.validate_every == 0 or last:
                validated = result = validate(trainer)
                run.append_metrics({"step": step, "validation": validated.summary()})
                reporter.validation(step, validated)
                clock = time.perf_counter()
            if step % t.checkpoint_every == 0 or last or stopped or validated is not None:
                save(trainer, store, validated)
                clock = time.perf_counter()
            if stopped and not last:
                return TrainResult(run.path, "interrupted", step, stopped[0], result)
    return TrainResult(run.path, "finished", trainer.step, None, result)


def optimizer_step(trainer: Trainer, indices: list[int]) -> tuple[Tensor, Tensor, int]:
    """One update on the sequences `indices`; the loss in nats per predicted token, gradient norm, token count.

    The noise of the whole batch is drawn at once and handed out by rows, so the split into micro-batches
    changes nothing but rounding.
    """
    recipe, t = trainer.recipe, trainer.recipe.train
    torch.manual_seed(derive_seed(recipe.seed, "dropout", trainer.step))
    tokens = torch.from_numpy(trainer.train.tokens(indices))
    valid = torch.from_numpy(trainer.train.valid(indices))
    predicted = int(maskable(valid).sum())
    noise = MaskNoise.draw(
        len(indices), tokens.shape[1], trainer.objective.block_size, recipe.seed, "mask", trainer.step
    )
    micro = t.micro_batch_size or len(indices)
    total = torch.zeros((), device=trainer.device)
    trainer.model.train()
    for start in range(0, len(indices), micro):
        rows = slice(start, start + micro)
        batch = trainer.objective.batch(
            tokens[rows], valid[rows], noise.rows(start, start + micro), trainer.step / t.steps
        ).to(trainer.device)
        with trainer.precision.autocast(trainer.device):
            loss = weighted_nll(trainer.model, batch, trainer.network) / predicted
        loss.backward()
        total += loss.detach()
    norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), t.gradient_clip or math.inf)
    trainer.optimizer.step()
    trainer.warmup.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.average is not None:
        trainer.average.update_parameters(trainer.model)
    return total, norm, predicted


def validate(trainer: Trainer) -> Likelihood:
    """NELBO of the averaged weights on the same validation sequences and masks every time."""
    recipe = trainer.recipe
    return likelihood(
        trainer.evaluated,
        trainer.validation,
        trainer.tokenizer,
        sequences=recipe.train.validate_sequences,
        draws=recipe.eval.draws,
        seed=recipe.eval.seed,
        batch_size=recipe.eval.batch_size,
    )


def prepare(recipe: Recipe, reporter: Reporter) -> Trainer:
    """Data, network, objective and optimizer of a recipe; nothing is written yet."""
    device = choose_device(recipe.train.device)
    tokenizer = load_tokenizer(recipe.data.tokenizer)
    objective = Objective.build(recipe.objective, tokenizer.mask_id, recipe.block_size)
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


def save(trainer: Trainer, store: CheckpointStore, validated: Likelihood | None) -> None:
    name = store.save(
        trainer.step,
        trainer.model.state_dict(),
        trainer.evaluated.state_dict() if trainer.average is not None else None,
        {"optimizer": trainer.optimizer.state_dict(), "warmup": trainer.warmup.state_dict()},
        {"validation": validated.summary() if validated else None},
    )
    if validated is None:
        return
    best = store.best()
    known = store.load(best).state["validation"] if best else None
    if known is None or validated.nats_per_token < known["nats_per_token"]:
        store.mark_best(name, validated.nats_per_token)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's state back into the trainer."""
    source = str(checkpoint.path)
    load_tensors(trainer.model, checkpoint.weights(average=False), source)
    states = checkpoint.optimizer()
    trainer.optimizer.load_state_dict(states["optimizer"])
    trainer.warmup.load_state_dict(states["warmup"])
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


def refuse_nonfinite(metrics: dict[str, float], trainer: Trainer, indices: list[int]) -> None:
    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"])):
        shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
        objective = trainer.recipe.objective
        raise RunError(
            f"The loss is {metrics['loss']} with gradient norm {metrics['gradient_norm']} at step {trainer.step} "
            f"(schedule {objective.schedule}, weight {objective.weight}, masking {objective.masking}, sequences "
            f"{shown}). The last checkpoint is intact; lower train.learning_rate or use --precision fp32."
        )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying, so that the loop can save and leave; a second one dies."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    previous: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: a notebook server, say
        previous = {}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
