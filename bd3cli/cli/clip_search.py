"""`bd3cli schedules search`: which clip makes a trained network's loss least noisy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, RunArgument, emit_json, progress_bar
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from bd3cli.evaluation.clip_search import TriedClip


def search(
    path: RunArgument,
    widths: Annotated[str, typer.Option(help="Widths of the intervals, separated by commas.", metavar="LIST")] = "0.5",
    step: Annotated[float, typer.Option(help="Grid of the intervals' lower ends.", metavar="X")] = 0.05,
    schedule: Annotated[
        str | None, typer.Option(help="Noise schedule to clip. [default: the run's]", metavar="S")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Another block size than the run's, to be trained next.", min=1, metavar="B")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.", metavar="NAME")] = "validation",
    batches: Annotated[int, typer.Option(help="Batches to try an interval on.", min=2, metavar="N")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the masks.", metavar="N")] = 0,
    checkpoint: CheckpointOption = "best",
    json: JsonFlag = False,
) -> None:
    """Var. NELBO of a run under every clip of a grid, and the least.

    All intervals are tried on the same batches with the same randomness. Clips are biased, each in its own way:
    the variance over the squared mean is beside the variance.
    """
    from bd3cli.cli.data import check_split
    from bd3cli.evaluation.clip_search import least, try_clips
    from bd3cli.evaluation.variance import Batches
    from bd3cli.recipes.clips import clip_grid
    from bd3cli.runs import Run
    from bd3cli.studies.variances import clip_objective, with_block_size

    grid = clip_grid(widths, step)
    run = with_block_size(Run.load(path, checkpoint=checkpoint), block_size)
    objective = clip_objective(run, schedule)
    packed = run.split(check_split(split))
    assert run.recipe is not None, "a run with a split has a recipe"
    chosen = Batches.choose(packed, list(range(len(packed))), run.recipe.train.batch_size, batches, seed)
    with progress_bar(f"searching {path}") as bar:
        task = bar.add_task("search", total=len(grid), note="")
        tried = try_clips(
            run.model, objective, grid, chosen, done=lambda done, total: bar.update(task, completed=done, total=total)
        )
    best = least(tried)
    if json:
        emit_json(
            {
                "run": str(path),
                "checkpoint": run.checkpoint,
                "block_size": run.config.block_size,
                "schedule": objective.config.schedule,
                "split": split,
                "fingerprint": packed.fingerprint,
                "batches": len(chosen.indices),
                "batch_size": len(chosen.indices[0]),
                "best": best.summary(),
                "tried": [each.summary() for each in tried],
            }
        )
        return
    print_table(
        ("clip", "Var. NELBO", "95% interval", "/ mean²", ""), [_cells(each.summary(), each is best) for each in tried]
    )
    low, high = best.clip
    print(
        f"\nLeast variance: --clip {low:g},{high:g} with {objective.config.schedule} at block size "
        f"{run.config.block_size} ({len(chosen.indices)} batches of {len(chosen.indices[0])} sequences, {split} split)."
    )


def _cells(row: TriedClip, best: bool) -> tuple[str, ...]:
    ci, relative = row["var_nelbo_ci95"], row["var_nelbo_relative"]
    return (
        "{:g}, {:g}".format(*row["clip"]),
        f"{row['var_nelbo']:.4g}",
        "-" if ci is None else f"{ci[0]:.4g} to {ci[1]:.4g}",
        "-" if relative is None else f"{relative:.4g}",
        "least" if best else "",
    )
