"""`bd3cli runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bd3cli.cli.common import JsonFlag, RunArgument, emit_json
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from bd3cli.studies.history import BestValidation, History, RunSummary

app = typer.Typer(help="Runs: which there are, how they went, how they differ.", no_args_is_help=True)

RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")]


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where to look, at any depth.")] = Path("runs"),
    json: JsonFlag = False,
) -> None:
    """Every run in a directory, with its state and best validation."""
    from bd3cli.studies.history import find_runs

    rows = [history.summary() for history in find_runs(folder)]
    if json:
        emit_json({"runs": rows})
        return
    columns = ("run", "status", "family", "L'", "L", "step", "ppl", "bits/byte", "started from")
    print_table(
        columns,
        [
            (
                row["run"], row["status"], row["family"], row["block_size"] or "-", row["length"],
                f"{row['step']}/{row['steps']}" if row["status"] != "imported" else row["step"],
                *_result(row["best"]), row["parent"] or "-",
            )
            for row in rows
        ],
    )  # fmt: skip


@app.command()
def show(run: RunArgument, json: JsonFlag = False) -> None:
    """What a run was asked to do, on what, and what came of it."""
    from bd3cli.exchange.inspection import chain
    from bd3cli.records import as_plain
    from bd3cli.studies.history import read_history

    history = read_history(run)
    parents = list(chain(history.record))
    if json:
        emit_json({**history.summary(), "chain": parents, "record": as_plain(history.record)})
        return
    record, summary = history.record, history.summary()
    best, data = summary["best"], record.data.get("train")
    rows: list[tuple[str, Any]] = [
        ("run", run),
        ("status", f"{summary['status']}, step {summary['step']} of {summary['steps']}"),
        ("begun", f"{summary['created']}, bd3cli {record.versions.get('bd3cli')}"),
        ("command", " ".join(["bd3cli", *record.argv])),
        ("model", f"{summary['family']}, {summary['parameters'] or 0:,} parameters, length {summary['length']}"),
        ("data", f"{summary['data']}, fingerprint {str(data.fingerprint if data else None)[:12]}"),
        ("machine", f"{record.device}, {record.precision.get('name') if record.precision else None}, "
                    f"attention {record.attention.get('backend') if record.attention else None}"),
    ]  # fmt: skip
    if best:
        low, high = best["ci95"]
        n = f"; n {best['effective_n']:.0f}" if "effective_n" in best else ""  # older runs do not say
        rows.append(("best", f"perplexity {best['ppl']:.4f} ({low:.4f} to {high:.4f}{n}) at step {best['step']}"))
    rows += [("resumed", f"at step {resume.get('step')}") for resume in record.resumes]
    rows += [("started from", f"{p['run']} {p['checkpoint']} ({p['family']}, {p['weights']} weights)") for p in parents]
    chosen = {key: source for key, source in record.sources.items() if source != "default"}
    rows += [(key, f"{record.recipe.get(key)}  [{source}]") for key, source in chosen.items()]
    print_table(("", ""), rows)


@app.command()
def plot(
    runs: RunsArgument,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a PNG instead of drawing in the terminal (extra: plot).")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Training loss, validation and gradient norm of one or several runs against the step."""
    from bd3cli.cli.view.chart import print_panels, save_png
    from bd3cli.studies.history import panels, read_history

    drawn = panels([read_history(run) for run in runs])
    if png is not None:
        save_png(drawn, png)
    if json:
        curves = [
            {"title": panel.title, "curves": [{"run": c.name, "step": c.x, "value": c.y} for c in panel.curves]}
            for panel in drawn
        ]
        emit_json({"png": None if png is None else str(png), "panels": curves})
    elif png is not None:
        print(png)
    else:
        print_panels(drawn)


@app.command()
def compare(runs: RunsArgument, json: JsonFlag = False) -> None:
    """The settings in which runs differ, and their best validations side by side.

    For differences with an interval, on the same test sequences, use `bd3cli eval RUN...`.
    """
    from bd3cli.studies.history import differences, read_history

    histories = [read_history(run) for run in runs]
    changed, rows = differences(histories), [history.summary() for history in histories]
    if json:
        emit_json({"runs": rows, "differences": changed})
        return
    print_table(("", *map(str, runs)), [*_facts(histories, rows), *((key, *values) for key, values in changed.items())])


def _facts(histories: list[History], rows: list[RunSummary]) -> list[tuple[object, ...]]:
    results = [_result(row["best"]) for row in rows]
    return [
        ("best perplexity", *(ppl for ppl, _ in results)),
        ("bits per byte", *(bits for _, bits in results)),
        ("at step", *(row["best"]["step"] if row["best"] else "-" for row in rows)),
        ("status", *(row["status"] for row in rows)),
        ("parameters", *(f"{row['parameters'] or 0:,}" for row in rows)),
        ("validation data", *(_fingerprint(history) for history in histories)),
        ("started from", *(row["parent"] or "-" for row in rows)),
    ]


def _fingerprint(history: History) -> str:
    data = history.record.data.get("validation")
    return str(data.fingerprint if data else "-")[:12]


def _result(best: BestValidation | None) -> tuple[str, str]:
    if not best:
        return "-", "-"
    bits = best.get("bits_per_byte")
    return f"{best['ppl']:.4g}", "-" if bits is None else f"{bits:.4f}"
