"""The training loop, whole and in one place.

Everything random is a pure function of the seed and the step (data order, masks, dropout), so a resumed run
is the uninterrupted run: there is no generator state to save.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from bd3cli.diffusion.batch import Batch, maskable, weighted_nll
from bd3cli.errors import InputError, RunError
from bd3cli.evaluation import Likelihood, likelihood
from bd3cli.maskings import MaskNoise
from bd3cli.resolve import Resolved
from bd3cli.rng import derive_seed
from bd3cli.training.checkpoints import CheckpointStore
from bd3cli.training.finetune import Start
from bd3cli.training.prefetch import prefetch
from bd3cli.training.record import RunDirectory, new_record
from bd3cli.training.reporter import Reporter, Silent
from bd3cli.training.trainer import Trainer, check_data_unchanged, facts, prepare, restore


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


def train(
    resolved: Resolved,
    out: Path,
    *,
    argv: list[str] | None = None,
    resume: bool = False,
    start: Start | None = None,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train a model as `resolved` says, in the run directory `out`.

    A new run begins with fresh weights, or with those of `start`, see `bd3cli.training.finetune`.

    Raises:
        InputError: the recipe, the data or the run directory cannot be used.
        RunError: training failed: non-finite loss, or a checkpoint could not be written.
    """
    reporter = reporter or Silent()
    recipe, run = resolved.recipe, RunDirectory(out)
    if not resume:
        run.refuse_unfit()
    trainer = prepare(recipe, reporter)
    store = CheckpointStore(run.checkpoints, recipe.train.keep_checkpoints)
    if resume:
        check_data_unchanged(run.read_record(), trainer)
        checkpoint, refused = store.load_latest_good()
        for text in refused:
            reporter.notice(f"Passed over a checkpoint: {text}")
        restore(trainer, checkpoint)
        if trainer.step >= recipe.train.steps:
            raise InputError(
                f"{out} is finished: it has trained {trainer.step} of {recipe.train.steps} steps. "
                "Raise --steps to go on."
            )
        run.rewind_metrics(trainer.step)
        resumes = [*run.read_record().get("resumes", []), {"step": trainer.step, "argv": argv or []}]
        run.update_record(status="running", resumes=resumes, recipe=resolved.values())
    else:
        if start is not None:
            start.apply(trainer)
        descent = {} if start is None else {"parent": start.record}
        run.create(resolved, new_record(resolved, argv or [], **facts(trainer), **descent))
    try:
        result = run_steps(trainer, run, store, reporter)
    except BaseException:
        run.update_record(status="failed", step=trainer.step)
        raise
    summary = result.validation.summary() if result.validation else None
    run.update_record(status=result.status, step=result.step, validation=summary, progress=progress(trainer))
    return result


def run_steps(trainer: Trainer, run: RunDirectory, store: CheckpointStore, reporter: Reporter) -> TrainResult:
    """The loop itself."""
    t = trainer.recipe.train
    result: Likelihood | None = None
    with stop_signals() as stopped:
        clock, tokens = time.perf_counter(), 0
        for data in prefetch(partial(step_data, trainer), trainer.step, t.steps):
            loss, norm = optimizer_step(trainer, data)
            tokens += data.predicted
            step, last = trainer.step, trainer.step == t.steps

            if step % t.log_every == 0 or last or step == 1:
                elapsed = time.perf_counter() - clock
                metrics: dict[str, float] = {
                    "loss": loss.item(),
                    "gradient_norm": norm.item(),
                    "learning_rate": float(trainer.warmup.get_last_lr()[0]),
                    "tokens_per_second": tokens / elapsed,
                    "masked_tokens": trainer.masked_tokens,
                }
                refuse_nonfinite(metrics, trainer, data.indices)
                run.append_metrics({"step": step, **metrics})
                reporter.step(step, t.steps, metrics)
                clock, tokens = time.perf_counter(), 0

            validated = None
            if step % t.validate_every == 0 or last:
                validated = result = validate(trainer)
                run.append_metrics({"step": step, "validation": validated.summary(), **progress(trainer)})
                reporter.validation(step, validated)
                clock = time.perf_counter()
            if step % t.checkpoint_every == 0 or last or stopped or validated is not None:
                save(trainer, store, validated)
                clock = time.perf_counter()
            if stopped and not last:
                return TrainResult(run.path, "interrupted", step, stopped[0], result)
    return TrainResult(run.path, "finished", trainer.step, None, result)


@dataclass(frozen=True)
class StepData:
    """What one step trains on.

    Attributes:
        indices: sequences of the batch.
        predicted: tokens the batch predicts, which the loss is divided by.
        batches: one for each micro-batch.
    """

    indices: list[int]
    predicted: int
    batches: list[Batch]


def step_data(trainer: Trainer, step: int) -> StepData:
    """The data of a step, a pure function of the recipe, `step`, and what was learned well before it.

    The noise of the whole batch is drawn at once and handed out by rows, so the split into micro-batches
    changes nothing but rounding.
    """
    recipe, t, objective = trainer.recipe, trainer.recipe.train, trainer.objective_at(step)
    indices = trainer.order.indices(step)
    tokens = torch.from_numpy(trainer.train.tokens(indices))
    valid = torch.from_numpy(trainer.train.valid(indices))
    noise = MaskNoise.draw(len(indices), tokens.shape[1], objective.block_size, recipe.seed, "mask", step)
    micro = t.micro_batch_size or len(indices)
    batches = []
    for start in range(0, len(indices), micro):
        rows = slice(start, start + micro)
        part = noise.rows(start, start + micro)
        batches.append(objective.batch(tokens[rows], valid[rows], part, step / t.steps))
    return StepData(indices, int(maskable(valid).sum()), batches)


def optimizer_step(trainer: Trainer, data: StepData) -> tuple[Tensor, Tensor]:
    """One update; the loss in nats per predicted token, and the gradient norm before clipping."""
    t = trainer.recipe.train
    torch.manual_seed(derive_seed(trainer.recipe.seed, "dropout", trainer.step))
    total, nll = torch.zeros((), device=trainer.device), []
    trainer.model.train()
    for batch in data.batches:
        with trainer.precision.autocast(trainer.device):
            loss, token_nll = weighted_nll(trainer.model, batch.to(trainer.device), trainer.network)
            loss = loss / data.predicted
        loss.backward()
        total += loss.detach()
        nll.append(token_nll)
    trainer.masked_tokens += sum(len(batch.target) for batch in data.batches)
    if trainer.learned is not None:
        trainer.learned.observe(trainer.step, data.batches, nll)
    norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), t.gradient_clip or math.inf)
    trainer.optimizer.step()
    trainer.warmup.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.average is not None:
        trainer.average.update_parameters(trainer.model)
    trainer.step += 1
    return total, norm


def progress(trainer: Trainer) -> dict[str, Any]:
    """What a validation's record says about how far training has come."""
    learned = {} if trainer.learned is None else {"masking": trainer.learned.summary()}
    return {"masked_tokens": trainer.masked_tokens, **learned}


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


def save(trainer: Trainer, store: CheckpointStore, validated: Likelihood | None) -> None:
    name = store.save(
        trainer.step,
        trainer.model.state_dict(),
        trainer.evaluated.state_dict() if trainer.average is not None else None,
        {
            "optimizer": trainer.optimizer.state_dict(),
            "warmup": trainer.warmup.state_dict(),
            "progress": trainer.progress_state(),
        },
        {"validation": validated.summary() if validated else None},
    )
    if validated is None:
        return
    best = store.best()
    known = store.load(best).state["validation"] if best else None
    if known is None or validated.nats_per_token < known["nats_per_token"]:
        store.mark_best(name, validated.nats_per_token)


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
