"""`bd3cli train`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bd3cli.cli import recipe_options as o
from bd3cli.cli.common import JsonFlag, emit_json, notice

if TYPE_CHECKING:
    from bd3cli.recipes.resolve import Resolved
    from bd3cli.runs import Run
    from bd3cli.training.distributed import Group
    from bd3cli.training.finetune import Start
    from bd3cli.training.loop import TrainResult


def train(
    recipe: o.RecipeArgument = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run directory to create. [default: runs/NAME-TIME]")
    ] = None,
    family: o.Family = None,
    block_size: o.BlockSize = None,
    length: o.Length = None,
    model: o.Model = None,
    data: o.Data = None,
    tokenizer: o.Tokenizer = None,
    schedule: o.Schedule = None,
    weight: o.Weight = None,
    masking: o.Masking = None,
    clip: o.Clip = None,
    steps: o.Steps = None,
    batch_size: o.BatchSize = None,
    seed: o.Seed = None,
    precision: o.Precision = None,
    attention: o.Attention = None,
    device: o.Device = None,
    set_: o.Set = None,
    max_time: o.MaxTime = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    json: JsonFlag = False,
) -> None:
    """Pretrain a model. With no arguments: a few minutes on a laptop, offline.

    Ends with a perplexity, a sample and the run's path. Ctrl-C saves a checkpoint; --resume continues.
    """
    from bd3cli.recipes.resolve import resolve
    from bd3cli.training.distributed import joined

    options = o.given_options(
        family=family, block_size=block_size, length=length, model=model, data=data, tokenizer=tokenizer,
        schedule=schedule, weight=weight, masking=masking, clip=clip, steps=steps, batch_size=batch_size,
        seed=seed, precision=precision, attention=attention, device=device,
    )  # fmt: skip
    with joined() as group:  # under torchrun a mistake is reported once
        if resume:
            from bd3cli.training.resume import resume_recipe

            resolved = resume_recipe(out, recipe, options, set_ or [])
        else:
            resolved = resolve(recipe, options, set_ or [])
        code = run_and_report(resolved, out, json, group, resume=resume, max_time=max_time)
    raise typer.Exit(code)


def run_and_report(
    resolved: Resolved,
    out: Path | None,
    json: bool,
    group: Group,
    *,
    resume: bool = False,
    start: Start | None = None,
    max_time: str | None = None,
) -> int:
    """Train with progress on stderr and the outcome on stdout; the exit code, which tells of a signal."""
    from bd3cli.cli.view.progress import TrainingProgress
    from bd3cli.training.loop import train as train_loop

    seconds = o.seconds(max_time)
    run = out or Path("runs") / f"{resolved.recipe.name}-{group.from_leader(time.strftime('%Y%m%d-%H%M%S'))}"
    with TrainingProgress(run) as reporter:
        result = train_loop(
            resolved, run, argv=sys.argv[1:], resume=resume, start=start, reporter=reporter, max_time=seconds
        )
    if result.status == "finished":
        if group.leads:
            _finish(result, json)
        return 0
    if group.leads:
        notice(f"{result.status} at step {result.step}; a checkpoint is saved, --resume --out {run} continues.")
        if json:
            emit_json({"run": str(run), "status": result.status, "step": result.step})
    return 0 if result.signal is None else 128 + result.signal


def _finish(result: TrainResult, json: bool) -> None:
    """The perplexity, a sample and where the run is."""
    from bd3cli.runs import Run

    run = Run.load(result.run)
    sample = _sample(run)
    validation = result.validation.summary() if result.validation else None
    document = {
        "run": str(result.run),
        "status": result.status,
        "step": result.step,
        "checkpoint": run.checkpoint,
        "validation": validation or {},
        "sample": sample,
    }
    if json:
        emit_json(document)
        return
    print(f"sample (nucleus 0.95, {run.checkpoint}):\n\n{sample}\n")
    if result.validation is not None and validation is not None:
        low, high = validation["ci95"]
        bits = result.validation.bits_per_byte
        print(
            f"validation perplexity {validation['ppl']:.3f} per token, 95% interval {low:.3f} to {high:.3f}"
            + (f"; {bits:.3f} bits per byte" if bits is not None else "")
            + f"\n({'exact' if result.validation.exact else 'upper bound'}, estimator "
            f"{result.validation.estimator}, {len(result.validation.nelbo)} sequences, "
            f"{int(result.validation.tokens.sum())} tokens; interval of {validation['effective_n']:.0f} independent "
            "sequences)"
        )
    print(f"run: {result.run}")


def _sample(run: Run) -> str:
    """A sample of the context's length, saved in the run directory."""
    from bd3cli.runs.directory import RunDirectory
    from bd3cli.sampling import generate, make_request

    assert run.tokenizer is not None
    assert run.recipe is not None
    request = make_request(run.model, run.tokenizer, length=run.recipe.model.length, nucleus=0.95)
    sample = generate(run.model, run.tokenizer, request, num=1, seed=run.recipe.seed).samples[0]
    RunDirectory(run.path).save_sample(f"end-of-training-{run.checkpoint}.txt", sample.text)
    return sample.text
