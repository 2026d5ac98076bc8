"""`bd3cli length-stats`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, emit_json, notice, progress_bar
from bd3cli.cli.registered import PngOption
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    import numpy as np

    from bd3cli.runs import Run
    from bd3cli.studies.lengths import Lengths

BAR = 40  # columns of the longest bar


def length_stats(
    data: Annotated[
        list[str] | None,
        typer.Option(help="Data set; repeat for several. [default: the runs' own, else pydocs]", metavar="D"),
    ] = None,
    run: Annotated[
        list[Path] | None, typer.Option(help="Run to sample from; repeat for several.", metavar="RUN")
    ] = None,
    split: Annotated[str, typer.Option(help="Of the data: train, validation or test.", metavar="NAME")] = "train",
    documents: Annotated[
        int | None, typer.Option(help="Of the data, a fixed random subset of this many.", min=1, metavar="N")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Of the data. [default: the first run's, else bytes]", metavar="T")
    ] = None,
    num: Annotated[int, typer.Option(help="Samples of each run.", min=1, metavar="N")] = 32,
    max_length: Annotated[
        int | None, typer.Option(help="Most tokens of a sample. [default: ten contexts, or what the family can]",
                                 min=2, metavar="M"),
    ] = None,
    nucleus: Annotated[float, typer.Option(help="Smallest token set with this probability.", metavar="P")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the first sample.", metavar="N")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples generated together.", min=1, metavar="N")] = 16,
    checkpoint: CheckpointOption = "best",
    png: PngOption = None,
    json: JsonFlag = False,
) -> None:  # fmt: skip
    """Lengths of the documents of data sets, and of variable-length samples of runs, in tokens of text."""
    from bd3cli.runs import Run
    from bd3cli.studies.lengths import bins

    runs = [Run.load(path, checkpoint=checkpoint) for path in run or []]
    rows = _of_data(data, runs, split, documents, tokenizer)
    rows += [_of_run(loaded, num, max_length, nucleus, seed, batch_size) for loaded in runs]
    if json:
        emit_json({"rows": [row.summary() for row in rows]})
    else:
        _print(rows)
    edges = bins(rows)
    if not json:
        _print_histogram(rows, edges)
    if png is not None:
        _save_png(rows, edges, png)


def _of_data(
    data: list[str] | None, runs: list[Run], split: str, documents: int | None, tokenizer: str | None
) -> list[Lengths]:
    from bd3cli.cli.data import check_split
    from bd3cli.data import load_tokenizer, resolve_documents
    from bd3cli.data.splits import seeded_subset
    from bd3cli.recipes.settings import DataConfig
    from bd3cli.studies.lengths import document_lengths

    own = {str(recipe.data): recipe.data for loaded in runs if (recipe := loaded.require_recipe())}
    configs = [DataConfig(name=name) for name in data] if data else [*own.values()] or [DataConfig()]
    spec = tokenizer or (runs[0].require_recipe().data.tokenizer if runs else "bytes")
    rows = []
    for config in configs:
        found = resolve_documents(config, check_split(split))
        if documents is not None:
            found = seeded_subset(found, documents, 0)
        rows.append(document_lengths(f"{config.name} ({split})", found, load_tokenizer(spec)))
    return rows


def _of_run(run: Run, num: int, max_length: int | None, nucleus: float, seed: int, batch_size: int) -> Lengths:
    from bd3cli.sampling import Sample, generate, make_request
    from bd3cli.studies.lengths import sample_lengths

    assert run.tokenizer is not None
    context = run.config.length
    most = context if run.config.block_size == context else 10 * context
    if max_length is not None and max_length > most and most == context:
        notice(f"{run.path}: {run.config.family} cannot go beyond its context, so its samples are capped at {context}.")
    cap = most if max_length is None else min(max_length, most) if most == context else max_length
    request = make_request(run.model, run.tokenizer, length=cap, nucleus=nucleus, stop=run.stop_rule())
    with progress_bar(f"sampling {run.path}") as bar:
        task = bar.add_task("samples", total=num, note="")

        def each(sample: Sample) -> None:
            bar.advance(task)

        made = generate(run.model, run.tokenizer, request, num=num, seed=seed, batch_size=batch_size, each=each)
    return sample_lengths(str(run.path), made.samples, cap)


def _print(rows: list[Lengths]) -> None:
    table = []
    for row in rows:
        s = row.summary()
        stops = "" if row.stops is None else ", ".join(f"{k} {v}" for k, v in sorted(row.stops.items()))
        cells = [s["name"], s["count"], f"{s['median']:g}", *(f"{x:g}" for x in s["quantiles"].values()), s["max"]]
        table.append([*cells, "-" if row.cap is None else f"{row.capped} at {row.cap}", stops or "-"])
    quantiles = [f"{100 * float(q):g}%" for q in rows[0].summary()["quantiles"]]
    print_table(("name", "count", "median", *quantiles, "max", "at the cap", "ended by"), table)
    print("\ntokens of text; BOS and EOS are not counted")


def _print_histogram(rows: list[Lengths], edges: np.ndarray) -> None:
    for row in rows:
        shares = row.histogram(edges)
        print(f"\n{row.name}")
        for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True):
            bar = "█" * round(BAR * share / max(shares))
            label = f"{low:.0f} to {high - 1:.0f}"
            print(f"{label:>16} │{bar:<{BAR}} {100 * share:5.1f}%".rstrip())


def _save_png(rows: list[Lengths], edges: np.ndarray, png: Path) -> None:
    from bd3cli.cli.view.chart import save_png
    from bd3cli.studies.curves import Curve, Panel

    x = [float(e) for pair in pairwise(edges) for e in pair]
    curves = [Curve(row.name, x, [float(s) for s in row.histogram(edges) for _ in range(2)]) for row in rows]
    save_png([Panel("document lengths", "tokens", "share of documents", curves)], png)
