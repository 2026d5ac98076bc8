"""`bd3cli eval`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, emit_json, print_notes, progress_bar
from bd3cli.cli.variance import VarianceBatches, VarianceOf, Variances, print_variances, variances
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from bd3cli.data import PackedSplit
    from bd3cli.evaluation import Likelihood
    from bd3cli.evaluation.compare import PairedRow, UnpairedRow
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

    chosen, rows = check_split(split), []
    for path in runs:
        run = Run.load(path, checkpoint=checkpoint, device=device, attention=attention)
        packed = run.split(chosen, data, column)
        options = {"estimator": estimator, "control": control, "draws": draws, "sequences": sequences, "seed": seed}
        result = measure(run, packed, **options, seeds=seeds, batch_size=batch_size)
        spread = variances(run, packed, result, variance_of, variance_batches, seed)
        rows.append(Row(split, describe(run, packed), result, spread))
    paired = compare_all([str(path) for path in runs], [row.result for row in rows], [row.of["data"] for row in rows])
    if json:
        documents = [row.summary() for row in rows]
        emit_json(documents[0] if len(rows) == 1 else {"rows": documents, "paired": paired})
        return
    _print(rows)
    print_variances([(row.of["run"], row.variances) for row in rows])
    if paired:
        _print_paired(paired)


def measure(run: Run, packed: PackedSplit, **options: Any) -> Likelihood:
    """`Run.evaluate` with a progress bar."""
    with progress_bar(f"evaluating {run.path}") as bar:
        task = bar.add_task("eval", total=None, note="")
        return run.evaluate(
            packed, **options, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )


class Measured(TypedDict):
    """Which weights were measured, on which tokens, with which random streams."""

    run: str
    checkpoint: str
    step: int | None
    stream_version: int
    family: str
    block_size: int
    length: int
    data: Mapping[str, object]
    fingerprint: str


@dataclass(frozen=True)
class Row:
    """One run, and what was found of it."""

    split: str
    of: Measured
    result: Likelihood
    variances: Variances

    def summary(self) -> dict[str, object]:
        """JSON fields of ``eval``."""
        return {"split": self.split, **self.of, **self.result.summary(), **self.variances.summary()}


def describe(run: Run, packed: PackedSplit) -> Measured:
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


def _print(rows: list[Row]) -> None:
    columns = ["run", "family", "L'", "ppl", "95% interval", "n", "bits/byte", "nats/token", "tokens", "estimator"]
    with_error = any(row.result.mc_stderr for row in rows)
    if with_error:
        columns.insert(8, "Monte Carlo")
    table = []
    for row in rows:
        found, (low, high) = row.result, row.result.ppl_ci95
        cells: list[object] = [
            row.of["run"],
            row.of["family"],
            row.of["block_size"],
            f"{found.ppl:.4g}",
            f"{low:.4g} to {high:.4g}",
            f"{found.mean.effective:.0f}",
            "-" if found.bits_per_byte is None else f"{found.bits_per_byte:.4f}",
            f"{found.nats_per_token:.4f}",
            int(found.tokens.sum()),
            found.estimator + ("" if found.exact else " (upper bound)"),
        ]
        if with_error:
            cells.insert(8, "exact" if found.exact else f"± {found.mc_stderr:.5f}")
        table.append(cells)
    print_table(columns, table)
    first, data = rows[0], rows[0].of["data"]
    print(
        f"\n{first.split} split of {data.get('dataset', '?')}: {len(first.result.nelbo)} sequences of "
        f"{first.of['length']} tokens; perplexity per token of {data.get('tokenizer', 'its tokenizer')}. "
        "Intervals over sequences, as dependent on each other as they are found to be: n independent ones would know "
        "as much."
    )
    print_notes([(row.of["run"], list(row.result.mean.notes)) for row in rows])
    if with_error:
        seeds = len(first.result.per_seed)
        print(f"Monte Carlo: standard error of nats/token for these sequences, from {seeds} seeds.")


def _print_paired(pairs: list[PairedRow | UnpairedRow]) -> None:
    def cells(row: PairedRow | UnpairedRow) -> list[object]:
        bits = "-" if row["diff_bits_per_byte"] is None else f"{row['diff_bits_per_byte']:+.4f}"
        if row["paired"] is False:
            return [row["a"], row["b"], f"not paired: {row['reason']}", "-", "-", "-", bits]
        interval, n = f"{row['ci95'][0]:+.4f} to {row['ci95'][1]:+.4f}", f"{row['effective_n']:.0f}"
        return [row["a"], row["b"], f"{row['diff_nats_per_token']:+.4f}", interval, n, f"{row['p_holm']:.2g}", bits]

    print()
    print_table(("a", "b", "a - b, nats/token", "95% interval", "n", "p", "a - b, bits/byte"), map(cells, pairs))
    paired = [row for row in pairs if row["paired"] is True]
    if paired:
        print("\nDifferences are paired by sequence; p is two-sided, adjusted for the number of pairs (Holm).")
        print_notes([(f"{row['a']} - {row['b']}", row["interval_notes"]) for row in paired])
