"""`bd3cli eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, emit_json, print_table, progress_bar

if TYPE_CHECKING:
    from bd3cli.data import PackedSplit
    from bd3cli.runs import Run


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="D", help="Other data: registered name, hub name, or local path (a file is used whole)."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Text column of tabular data.", metavar="NAME")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.", metavar="NAME")] = "test",
    estimator: Annotated[
        str | None, typer.Option(help="count, uniform or exact. [default: the recipe's]", metavar="NAME")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="Forward passes a sequence (count, uniform).", min=1, metavar="N")
    ] = None,
    sequences: Annotated[
        int | None, typer.Option(help="Use a fixed random subset of this many.", min=2, metavar="N")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the estimator's masks.", metavar="N")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a forward pass.", min=1, metavar="N")] = None,
    checkpoint: CheckpointOption = "best",
    attention: Annotated[str, typer.Option(help="Block attention backend.", metavar="NAME")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", metavar="D")] = "auto",
    json: JsonFlag = False,
) -> None:
    """Perplexity of held-out text with its 95% interval, and bits per byte.

    The quantity is exp(NELBO / predicted tokens) under uniform mask rates: the schedule, clip and loss
    weight a model was trained with do not enter. BOS is given and not counted.
    """
    from bd3cli.cli.data import check_split
    from bd3cli.runs import Run

    chosen, rows = check_split(split), []
    for path in runs:
        run = Run.load(path, checkpoint=checkpoint, device=device, attention=attention)
        packed = run.split(chosen, data, column)
        rows.append({"split": split, **_row(run, packed, estimator, draws, sequences, seed, batch_size)})
    if json:
        emit_json(rows[0] if len(rows) == 1 else {"rows": rows})
        return
    _print(rows)


def _row(run: Run, packed: PackedSplit, estimator: str | None, draws: int | None,
         sequences: int | None, seed: int | None, batch_size: int | None) -> dict[str, Any]:  # fmt: skip
    with progress_bar(f"evaluating {run.path}") as bar:
        task = bar.add_task("eval", total=None, note="")
        result = run.evaluate(
            packed, estimator=estimator, draws=draws, sequences=sequences, seed=seed, batch_size=batch_size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    return {
        "run": str(run.path),
        "checkpoint": run.checkpoint,
        "step": run.step,
        "family": run.config.family,
        "block_size": run.config.block_size,
        "length": run.config.length,
        "data": packed.description,
        "fingerprint": packed.fingerprint,
        **result.summary(),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("run", "family", "L'", "ppl", "95% interval", "bits/byte", "nats/token", "tokens", "estimator")
    print_table(
        columns,
        [
            (
                row["run"],
                row["family"],
                row["block_size"],
                f"{row['ppl']:.4g}",
                f"{row['ci95'][0]:.4g} to {row['ci95'][1]:.4g}",
                "-" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}",
                f"{row['nats_per_token']:.4f}",
                row["tokens"],
                row["estimator"] + ("" if row["exact"] else " (upper bound)"),
            )
            for row in rows
        ],
    )
    first = rows[0]
    print(
        f"\n{first['split']} split of {first['data'].get('dataset', '?')}: {first['sequences']} sequences of "
        f"{first['length']} tokens; intervals over sequences; perplexity per token of "
        f"{first['data'].get('tokenizer', 'its tokenizer')}."
    )
