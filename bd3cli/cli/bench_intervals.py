"""`bd3cli bench intervals`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, emit_json, integers
from bd3cli.cli.view.tables import print_table


def intervals(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    data: Annotated[str | None, typer.Option(metavar="D", help="Other text than the runs' own.")] = None,
    windows: Annotated[str, typer.Option(help="Sequences in a window, comma-separated.", metavar="N,...")] = "256,1024",
    batch_size: Annotated[int, typer.Option(help="Sequences a forward pass.", min=1, metavar="N")] = 64,
    checkpoint: CheckpointOption = "best",
    json: JsonFlag = False,
) -> None:
    """Coverage: how often the 95% interval of a stretch of text covers the value of the whole text."""
    from bd3cli.bench.coverage import METHOD, bench_intervals, require_windows
    from bd3cli.bench.timing import environment
    from bd3cli.cli.evaluate import measure
    from bd3cli.runs import Run

    sizes = integers(windows, "--windows")
    loaded = [Run.load(path, checkpoint=checkpoint) for path in runs]
    splits = [run.split("test", data) for run in loaded]
    for split in splits:  # before the work
        require_windows(len(split), sizes)
    results = [measure(run, split, batch_size=batch_size) for run, split in zip(loaded, splits, strict=True)]
    found = bench_intervals([str(path) for path in runs], results, sizes)
    where = environment()
    if json:
        sequences = len(results[0].sequences)
        emit_json({"rows": [asdict(row) for row in found], "sequences": sequences,
                   "environment": where | {"method": METHOD}})  # fmt: skip
        return
    rows = [
        (
            row.name,
            row.window,
            row.windows,
            f"{row.effective_n:.0f}",
            f"{100 * row.covered:.0f}%",
            f"{100 * row.covered_if_independent:.0f}%",
            f"{row.width_over_independent:.2f}",
            f"{row.true_stderr_over_independent:.2f}",
            f"{100 * row.noted:.0f}%",
        )
        for row in found
    ]
    columns = ("value", "sequences", "windows", "n", "covered", "if independent", "width", "true error", "noted")
    print_table(columns, rows)
    print(
        "\nn: independent sequences that would know as much, median; width and true error: times those of the interval "
        "that takes sequences for independent; noted: windows whose interval says that it may be too narrow."
    )
    print(f"\n{where['processor']}, {where['threads']} thread(s), torch {where['torch']}\n{METHOD}")
