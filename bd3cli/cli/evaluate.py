"""`bd3cli eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, emit_json, print_notes, progress_bar
from bd3cli.cli.variance import VarianceBatches, VarianceOf, print_variances, variances
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from bd3cli.data import PackedSplit
    from bd3cli.evaluation import Likelihood
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
    control: Annotated[
        str | None, typer.Option(help="none, or ngram: less Monte Carlo noise. [default: the recipe's]", metavar="NAME")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="Forward passes a sequence (count, uniform).", min=1, metavar="N")
    ] = None,
    sequences: Annotated[
        int | None, typer.Option(help="Use a fixed random subset of this many.", min=2, metavar="N")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the estimator's masks.", metavar="N")] = None,
    seeds: Annotated[
        int, typer.Option(help="Repeat with N seeds: mean, and the Monte Carlo error apart.", min=1, metavar="N")
    ] = 1,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a forward pass.", min=1, metavar="N")] = None,
    variance_of: VarianceOf = None,
    variance_batches: VarianceBatches = 100,
    checkpoint: CheckpointOption = "best",
    attention: Annotated[str, typer.Option(help="Block attention backend.", metavar="NAME")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", metavar="D")] = "auto",
    json: JsonFlag = False,
) -> None:
    """Perplexity of held-out text with its 95% interval, and bits per byte; of several runs also the differences.

    The quantity is exp(NELBO / predicted tokens) under uniform mask rates: the schedule, clip and loss
    weight a model was trained with do not enter. BOS is given and not counted. Runs measured on the same
    tokens are compared sequence by sequence.
    """
    from bd3cli.cli.data import check_split
    from bd3cli.evaluation import compare_all
    from bd3cli.runs import Run

    chosen, rows, results, facts = check_split(split), [], [], []
    for path in runs:
        run = Run.load(path, checkpoint=checkpoint, device=device, attention=attention)
        packed = run.split(chosen, data, column)
        options = {"estimator": estimator, "control": control, "draws": draws, "sequences": sequences, "seed": seed}
        result = measure(run, packed, **options, seeds=seeds, batch_size=batch_size)
        spread = variances(run, packed, result, variance_of, variance_batches, seed)
        rows.append({"split": split, **describe(run, packed), **result.summary(), **spread})
        results.append(result)
        facts.append(packed.description)
    paired = compare_all([str(path) for path in runs], results, facts)
    if json:
        emit_json(rows[0] if len(rows) == 1 else {"rows": rows, "paired": paired})
        return
    _print(rows)
    print_variances(rows)
    if paired:
        _print_paired(paired)


def measure(run: Run, packed: PackedSplit, **options: Any) -> Likelihood:
    """`Run.evaluate` with a progress bar."""
    with progress_bar(f"evaluating {run.path}") as bar:
        task = bar.add_task("eval", total=None, note="")
        return run.evaluate(
            packed, **options, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )


def describe(run: Run, packed: PackedSplit) -> dict[str, Any]:
    """Which weights were measured, on which tokens, with which random streams."""
    from bd3cli.rng import STREAM_VERSION

    return {
        "run": str(run.path),
        "checkpoint": run.checkpoint,
        "step": run.step,
        "stream_version": STREAM_VERSION,
        "family": run.config.family,
        "block_size": run.config.block_size,
        "length": run.config.length,
        "data": packed.description,
        "fingerprint": packed.fingerprint,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ["run", "family", "L'", "ppl", "95% interval", "n", "bits/byte", "nats/token", "tokens", "estimator"]
    with_error = any(row["mc_stderr_nats_per_token"] for row in rows)
    if with_error:
        columns.insert(8, "Monte Carlo")
    table = []
    for row in rows:
        cells = [
            row["run"],
            row["family"],
            row["block_size"],
            f"{row['ppl']:.4g}",
            f"{row['ci95'][0]:.4g} to {row['ci95'][1]:.4g}",
            f"{row['effective_n']:.0f}",
            "-" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}",
            f"{row['nats_per_token']:.4f}",
            row["tokens"],
            row["estimator"] + ("" if row["exact"] else " (upper bound)"),
        ]
        if with_error:
            error = row["mc_stderr_nats_per_token"]
            cells.insert(8, "exact" if row["exact"] else f"± {error:.5f}")
        table.append(cells)
    print_table(columns, table)
    first = rows[0]
    print(
        f"\n{first['split']} split of {first['data'].get('dataset', '?')}: {first['sequences']} sequences of "
        f"{first['length']} tokens; perplexity per token of {first['data'].get('tokenizer', 'its tokenizer')}. "
        "Intervals over sequences, as dependent on each other as they are found to be: n independent ones would know "
        "as much."
    )
    print_notes([(row["run"], row["interval_notes"]) for row in rows])
    if with_error:
        print(f"Monte Carlo: standard error of nats/token for these sequences, from {first['seeds']} seeds.")


def _print_paired(pairs: list[dict[str, Any]]) -> None:
    def cells(row: dict[str, Any]) -> list[object]:
        bits = "-" if row["diff_bits_per_byte"] is None else f"{row['diff_bits_per_byte']:+.4f}"
        if not row["paired"]:
            return [row["a"], row["b"], f"not paired: {row['reason']}", "-", "-", "-", bits]
        interval, n = f"{row['ci95'][0]:+.4f} to {row['ci95'][1]:+.4f}", f"{row['effective_n']:.0f}"
        return [row["a"], row["b"], f"{row['diff_nats_per_token']:+.4f}", interval, n, f"{row['p_holm']:.2g}", bits]

    print()
    print_table(("a", "b", "a - b, nats/token", "95% interval", "n", "p", "a - b, bits/byte"), map(cells, pairs))
    paired = [row for row in pairs if row["paired"]]
    if paired:
        print("\nDifferences are paired by sequence; p is two-sided, adjusted for the number of pairs (Holm).")
        print_notes([(f"{row['a']} - {row['b']}", row["interval_notes"]) for row in paired])
