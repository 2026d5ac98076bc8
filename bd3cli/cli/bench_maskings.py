"""`bd3cli bench maskings`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bd3cli.cli import recipe_options as o
from bd3cli.cli.common import JsonFlag, emit_json, notice
from bd3cli.cli.view.tables import print_table

ARMS = "loglinear;loglinear@paper;gaussian:mu=0.5;masking:count;masking:adaptive"


def maskings(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of the comparison; give it again to go on.")],
    recipe: Annotated[str | None, typer.Option(help="Recipe to start from. [default: tiny]", metavar="RECIPE")] = None,
    arms: Annotated[
        str,
        typer.Option(
            help="Ways to draw masks, separated by semicolons; the first is the baseline. SCHEDULE, SCHEDULE@A,B "
            "(clipped), SCHEDULE@paper (the paper's clip), or masking:NAME.",
            metavar="LIST",
        ),
    ] = ARMS,
    block_sizes: Annotated[str, typer.Option(help="Block sizes, separated by commas.", metavar="LIST")] = "4,16",
    seeds: Annotated[int, typer.Option(help="Seeds of each arm.", min=1, metavar="N")] = 3,
    test_sequences: Annotated[int, typer.Option(help="Test sequences.", min=2, metavar="N")] = 512,
    test_draws: Annotated[int, typer.Option(help="Forward passes a test sequence.", min=1, metavar="N")] = 2,
    length: o.Length = None,
    data: o.Data = None,
    tokenizer: o.Tokenizer = None,
    steps: o.Steps = None,
    batch_size: o.BatchSize = None,
    set_: o.Set = None,
    only_report: Annotated[bool, typer.Option("--report", help="Train nothing; show what is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Equal-compute training under several ways to draw masks: same steps, batches and tokens, several seeds.

    Every run validates by the estimator count on the same sequences; the report has means and intervals over
    seeds, differences by seed, steps to the baseline's last value, and the same at equal masked tokens.
    """
    from bd3cli.bench.masking_report import caption, markdown, report, table_rows

    stopped = None
    if not only_report:
        stopped = _run(out, recipe, arms, block_sizes, seeds, test_sequences, test_draws, set_,
                       length=length, data=data, tokenizer=tokenizer, steps=steps, batch_size=batch_size)  # fmt: skip
    document = report(out)
    if not only_report:
        (out / "report.md").write_text(markdown(document), encoding="utf-8")
    if json:
        emit_json(document)
    else:
        head, *rows = table_rows(document)
        print_table(head, rows)
        print(f"\n{caption(document)}")
    if stopped is not None:
        notice(f"stopped; the same command goes on with {out}.")
        raise typer.Exit(128 + stopped)


def _run(
    out: Path, recipe: str | None, arms: str, block_sizes: str, seeds: int, test_sequences: int, test_draws: int,
    overrides: list[str] | None, **options: object,
) -> int | None:  # fmt: skip
    from bd3cli.bench.maskings import Comparison, run_comparison
    from bd3cli.cli.view.progress import TrainingProgress
    from bd3cli.errors import InputError

    try:
        sizes = tuple(int(part) for part in block_sizes.split(","))
    except ValueError:
        raise InputError(f"--block-sizes must be whole numbers such as 4,16, not {block_sizes!r}.") from None
    return run_comparison(
        o.resolve_options(recipe, overrides, **options),
        Comparison(arms, sizes, seeds, test_sequences, test_draws),
        out,
        argv=sys.argv[1:],
        reporter=TrainingProgress,
        notice=notice,
    )
