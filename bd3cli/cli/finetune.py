"""`bd3cli finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bd3cli.cli import recipe_options as o
from bd3cli.cli.common import CheckpointOption, JsonFlag, notice
from bd3cli.cli.train import run_and_report
from bd3cli.errors import InputError

if TYPE_CHECKING:
    from bd3cli.training.finetune import Weights


def finetune(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="The run to start from, trained or imported.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe whose values replace the run's own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="NEW", help="Run directory to create. [default: runs/NAME-TIME]")
    ] = None,
    checkpoint: CheckpointOption = "best",
    weights: Annotated[
        str | None,
        typer.Option(help="averaged or raw. [default: averaged; raw with --keep-optimizer]", metavar="WHICH"),
    ] = None,
    keep_optimizer: Annotated[
        bool, typer.Option("--keep-optimizer", help="Take over the moments of AdamW instead of starting afresh.")
    ] = False,
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
    """Start from the weights of a run, with another block size, schedule, weight, data or length.

    What is not given stays as it was in RUN, the number of steps too; the seed is one more. --block-size makes
    block diffusion of any family. The optimizer and the step count start afresh.
    """
    options = o.given_options(
        family=family, block_size=block_size, length=length, model=model, data=data, tokenizer=tokenizer,
        schedule=schedule, weight=weight, masking=masking, clip=clip, steps=steps, batch_size=batch_size,
        seed=seed, precision=precision, attention=attention, device=device,
    )  # fmt: skip
    from bd3cli.training.distributed import joined

    if resume:
        from bd3cli.training.resume import resume_recipe

        if run is not None or keep_optimizer or weights is not None or checkpoint != "best":
            raise InputError(
                "--resume continues the run in --out from its own checkpoint: leave out RUN, --checkpoint, --weights "
                "and --keep-optimizer."
            )
        with joined() as group:
            resolved = resume_recipe(out, recipe, options, set_ or [])
            code = run_and_report(resolved, out, json, group, resume=True, max_time=max_time)
        raise typer.Exit(code)
    if run is None:
        raise InputError("finetune needs the run to start from: bd3cli finetune RUN --block-size 4 --out NEW.")
    if weights not in (None, "averaged", "raw"):
        raise InputError(f"--weights must be averaged or raw, not {weights!r}.")
    from bd3cli.training.finetune import finetune_recipe, load_start

    which: Weights | None = weights  # type: ignore[assignment]
    with joined() as group:
        resolved = finetune_recipe(run, recipe, options, set_ or [])
        start = load_start(run, checkpoint=checkpoint, weights=which, optimizer=keep_optimizer)
        record = start.record
        if group.leads:
            notice(
                f"starting from the {record['weights']} weights of {run}, {record['checkpoint']} ({record['family']}, "
                f"block size {record['block_size']}); {record['optimizer']} optimizer"
            )
        code = run_and_report(resolved, out, json, group, start=start, max_time=max_time)
    raise typer.Exit(code)
