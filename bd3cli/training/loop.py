"""The training loop, whole and in one place.

Everything random is a pure function of the seed and the step (data order, masks, dropout), so a resumed run
is the uninterrupted run: there is no generator state to save.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from bd3cli.diffusion.batch import maskable
from bd3cli.errors import BD3Error, InputError
from bd3cli.evaluation import Likelihood, likelihood
from bd3cli.maskings import MaskNoise
from bd3cli.recipes.resolve import Resolved
from bd3cli.rng import STREAM_VERSION, seed_torch
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory, new_record
from bd3cli.runs.records import Progress, Resume, RunRecord, StepRow, ValidationRow
from bd3cli.testing.training import require_lawful
from bd3cli.training.batches import StepData
from bd3cli.training.distributed import accumulating, joined, whole
from bd3cli.training.finetune import Start
from bd3cli.training.guards import Guard
from bd3cli.training.prefetch import prefetch
from bd3cli.training.reporter import Reporter, Silent
from bd3cli.training.resume import check_horizon_unchanged, consequences
from bd3cli.training.stopping import stop_requests
from bd3cli.training.throughput import Throughput
from bd3cli.training.tracking import require_trackers, tracked
from bd3cli.training.trainer import Trainer, check_data_unchanged, described, full_state, prepare, read_state, restore

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """How training ended.

    Attributes:
        status: ``finished``, ``interrupted`` by a signal, or ``paused`` when its time was up.
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
    max_time: float | None = None,
) -> TrainResult:
    """Train a model as `resolved` says, in the run directory `out`.

    A new run begins with fresh weights, or with those of `start`, see `bd3cli.training.finetune`. Under torchrun
    every process calls this alike, and they share the work.

    Args:
        max_time: seconds from now after which to save a checkpoint and leave.

    Raises:
        InputError: the recipe, the data or the run directory cannot be used.
        RunError: training failed: non-finite loss, or a checkpoint could not be written.
    """
    deadline = None if max_time is None else time.monotonic() + max_time
    with joined() as group:
        reporter = reporter if reporter is not None and group.leads else Silent()
        recipe, run = resolved.recipe, RunDirectory(out)
        if group.leads:
            require_trackers(recipe)
            require_lawful(recipe.objective, recipe.train.check_laws, reporter.notice)
        if not resume and group.leads:
            run.refuse_unfit()
        trainer = prepare(recipe, reporter, group)
        store = CheckpointStore(run.checkpoints, recipe.train.keep_checkpoints)
        if start is not None and not resume:
            start.apply(trainer)
        if not resume and group.leads:
            record = described(new_record(resolved, argv or []), trainer)
            run.create(resolved, record if start is None else replace(record, parent=start.record))
        with run.claimed() if group.leads else nullcontext():
            if resume:
                take_up(trainer, run, store, reporter)
            if resume and group.leads:
                record = run.read_record()
                for text in consequences(record, trainer):
                    reporter.notice(text)
                this: Resume = {"step": trainer.step, "argv": argv or [], "stream_version": STREAM_VERSION}
                run.update_recipe(resolved, status="running", resumes=(*record.resumes, this))
            try:
                with tracked(reporter, run, resolved, trainer.step) if group.leads else nullcontext(reporter) as told:
                    result = run_steps(trainer, run, store, told, deadline)
            except BaseException:
                if group.leads:
                    with suppress(BD3Error, OSError):  # a full disk is reported by what it stopped
                        run.update_record(status="failed", step=trainer.step)
                raise
            if group.leads:
                summary = result.validation.summary() if result.validation else None
                done = progress(trainer)
                run.update_record(status=result.status, step=result.step, validation=summary, progress=done)
    return result


def take_up(trainer: Trainer, run: RunDirectory, store: CheckpointStore, reporter: Reporter) -> None:
    """Put the trainer where the newest good checkpoint left it, and the run's files with it."""
    saved = None
    if trainer.group.leads:
        record = run.read_record()
        check_data_unchanged(record, trainer)
        check_horizon_unchanged(record, trainer)
        if (drawn := last_streams(record)) != STREAM_VERSION:
            reporter.notice(
                f"{run.path} drew its random numbers from streams of version {drawn}; this bd3cli has version "
                f"{STREAM_VERSION}. Training goes on with other masks, order and dropout than it would have had: a "
                "sound run, but not bit for bit the uninterrupted one."
            )
        if not store.untouched():
            saved, refused = store.load_latest_good(partial(read_state, trainer))
            for text in refused:
                reporter.notice(f"Passed over a checkpoint: {text}")
            if saved.step > trainer.recipe.train.steps or (
                saved.step == trainer.recipe.train.steps and record.status == "finished"
            ):
                raise InputError(
                    f"{run.path} is finished: it has trained {saved.step} of {trainer.recipe.train.steps} steps. "
                    "Raise --steps to go on."
                )
        elif record.parent is not None:
            raise InputError(
                f"{run.path} has no checkpoint yet, and its first weights came from {record.parent['run']}. "
                "Give the command that began it again, with another --out."
            )
        else:
            reporter.notice("There is no checkpoint yet: starting again from step 0.")
    if trainer.group.from_leader(saved is not None):
        restore(trainer, saved)
    if trainer.group.leads:
        run.rewind_metrics(trainer.step)
        store.mend_best(trainer.step)


def last_streams(record: RunRecord) -> int:
    """The version of the random streams that a run drew from last; records older than the field mean 1."""
    return record.resumes[-1].get("stream_version", 1) if record.resumes else record.stream_version


def run_steps(
    trainer: Trainer, run: RunDirectory, store: CheckpointStore, reporter: Reporter, deadline: float | None = None
) -> TrainResult:
    """The loop itself."""
    t, group = trainer.recipe.train, trainer.group
    guard = Guard(trainer, run, reporter)
    result: Likelihood | None = None
    with stop_requests(deadline, group) as stop:
        throughput = Throughput()
        for data in prefetch(partial(step_data, trainer), trainer.step, t.steps):
            loss, norm = optimizer_step(trainer, data, guard)
            throughput.add(data.predicted)
            step, last = trainer.step, trainer.step == t.steps

            if step % t.log_every == 0 or last or step == 1:
                guard.check()
                row = StepRow(
                    step=step,
                    loss=loss.item(),
                    gradient_norm=norm.item(),
                    learning_rate=float(trainer.warmup.get_last_lr()[0]),
                    tokens_per_second=throughput.take(),
                    masked_tokens=trainer.masked_tokens,
                )
                with throughput.paused():
                    if group.leads:
                        run.append_metrics(row)
                    reporter.step(step, t.steps, row.numbers())

            validated = None
            if step % t.validate_every == 0 or last:
                guard.check()
                with throughput.paused():
                    validated = result = validate(trainer)
                    if trainer.search is not None and step % t.validate_every == 0:
                        trainer.search.look(trainer.evaluated(), trainer.validation, trainer.recipe, step, group)
                    if group.leads:
                        run.append_metrics(validation_row(trainer, validated))
                    reporter.validation(step, validated)
            leaving = stop.agreed(group) and not last
            if step % t.checkpoint_every == 0 or last or leaving or validated is not None:
                guard.check()
                with throughput.paused():
                    save(trainer, run, store, validated)
            if leaving:
                status = "paused" if stop.signal is None else "interrupted"
                return TrainResult(run.path, status, step, stop.signal, result)
    if result is None:  # killed between its last checkpoint and the end
        result = validate(trainer)
    return TrainResult(run.path, "finished", trainer.step, None, result)


def step_data(trainer: Trainer, step: int) -> StepData:
    """The data of a step, a pure function of the recipe, `step`, and what was learned well before it.

    The noise of the whole batch is drawn at once and handed out by rows, so the split into micro-batches
    changes nothing but rounding.
    """
    recipe, t, objective = trainer.recipe, trainer.recipe.train, trainer.objective_at(step)
    indices = trainer.order.indices(step)
    valid = torch.from_numpy(trainer.train.valid(indices))
    noise = MaskNoise.draw(len(indices), valid.shape[1], objective.block_size, recipe.seed, "mask", step)
    own = trainer.group.rows(len(indices))
    tokens = torch.from_numpy(trainer.train.tokens(indices[own]))
    count = own.stop - own.start
    micro = min(t.micro_batch_size or count, count)
    batches = []
    for start in range(0, count, micro):
        stop = min(start + micro, count)
        rows = slice(own.start + start, own.start + stop)
        part = noise.rows(rows.start, rows.stop)
        batches.append(objective.batch(tokens[start:stop], valid[rows], part, recipe.progress(step)))
    return StepData(indices, int(maskable(valid).sum()), batches)


def optimizer_step(trainer: Trainer, data: StepData, guard: Guard | None = None) -> tuple[Tensor, Tensor]:
    """One update; the loss in nats per predicted token, and the gradient norm before clipping.

    Gradients come out of `trainer.loss` as the mean over processes, so each one's share of the loss is scaled
    by their number.
    """
    t, group = trainer.recipe.train, trainer.group
    own = (group.rank,) if group.rank else ()  # dropout differs between processes
    seed_torch(trainer.recipe.seed, "dropout", trainer.step, *own)
    total, nll = torch.zeros((), device=trainer.device), []
    trainer.model.train()
    for i, batch in enumerate(data.batches, start=1):
        with accumulating(trainer.loss, last=i == len(data.batches)):
            with trainer.precision.autocast(trainer.device):
                loss, token_nll = trainer.loss(batch.to(trainer.device), trainer.network)
                loss = loss / data.predicted
            (loss * group.size).backward()
        total += loss.detach()
        nll.append(token_nll)
    total = group.sum(total)
    norm = whole(nn.utils.clip_grad_norm_(trainer.model.parameters(), t.gradient_clip or math.inf))
    if guard is not None:
        guard.note(total, norm, data)
    trainer.masked_tokens += group.total(sum(len(batch.target) for batch in data.batches))
    if trainer.learned is not None:
        trainer.learned.observe(trainer.step, data.batches, nll, group.rows_of_all)
    trainer.optimizer.step()
    trainer.warmup.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.average is not None:
        trainer.average.update_parameters(trainer.model)
    trainer.step += 1
    return total, norm


def progress(trainer: Trainer) -> Progress:
    """How far training has come: the clip of the last step among it, and what was searched and learned."""
    return Progress(
        masked_tokens=trainer.masked_tokens,
        clip=trainer.clipped_at(max(trainer.step - 1, 0)).config.clip,
        masking=None if trainer.learned is None else trainer.learned.summary(),
        clip_search=None if trainer.search is None else trainer.search.history,
    )


def validation_row(trainer: Trainer, validated: Likelihood) -> ValidationRow:
    """The metrics of a validation; of a search only its newest choice."""
    known = progress(trainer)
    return ValidationRow(
        step=trainer.step,
        validation=validated.summary(),
        masked_tokens=known.masked_tokens,
        clip=known.clip,
        masking=known.masking,
        clip_search=None if known.clip_search is None else known.clip_search[-1:],
    )


def validate(trainer: Trainer) -> Likelihood:
    """NELBO of the averaged weights on the same validation sequences and masks every time.

    Processes take turns at the sequences; every one gets the whole result.
    """
    recipe, group = trainer.recipe, trainer.group
    part = likelihood(
        trainer.evaluated(),
        trainer.validation,
        trainer.tokenizer,
        sequences=recipe.train.validate_sequences,
        draws=recipe.eval.draws,
        seed=recipe.eval.seed,
        batch_size=recipe.eval.batch_size,
        share=(group.rank, group.size),
    )
    return Likelihood.merge(group.gather(part))


def save(trainer: Trainer, run: RunDirectory, store: CheckpointStore, validated: Likelihood | None) -> None:
    """Write a checkpoint. All processes gather the state, the leader writes it."""
    state = full_state(trainer)
    if not trainer.group.leads:
        return
    run.flush_metrics()
    name = store.save(
        state.step,
        state.model,
        state.average,
        {"optimizer": state.optimizer, "warmup": state.warmup},
        {"validation": validated.summary() if validated else None},
        state.progress,
    )
    if validated is not None and validated.nats_per_token < store.best_nats():
        store.mark_best(name, validated.nats_per_token)
