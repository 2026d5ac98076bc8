"""`bd3cli reproduce`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bd3cli.cli.common import JsonFlag, emit_json, notice
from bd3cli.cli.view.tables import print_table
from bd3cli.errors import InputError

app = typer.Typer(help="The published tables, run again at a chosen scale, beside the published numbers.",
                  no_args_is_help=True)  # fmt: skip

TableArgument = Annotated[str, typer.Argument(metavar="TABLE", help="A name from `bd3cli reproduce list`.")]


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """The tables there are."""
    from bd3cli.reproduce.tables import load_table, table_names

    tables = [load_table(name) for name in table_names()]
    if json:
        rows = [{"name": t.name, "title": t.title, "source": t.source, "rows": len(t.rows)} for t in tables]
        emit_json({"tables": rows})
        return
    print_table(("table", "rows", "what", "source"), [(t.name, len(t.rows), t.title, t.source) for t in tables])


@app.command()
def show(table: TableArgument, json: JsonFlag = False) -> None:
    """A table's rows, published numbers, claimed orderings and what is known to be wrong with it."""
    from bd3cli.reproduce.report import HEADINGS, publications, published_text
    from bd3cli.reproduce.tables import load_table

    found = load_table(table)
    if json:
        emit_json({"table": found.name, "title": found.title, "source": found.source, "measures": found.measures,
                   "rows": [{"id": r.id, "title": r.title, "pretrain": r.pretrain, "objective": r.objective,
                             "paper": r.paper, "reproduction": r.reproduction} for r in found.rows],
                   "claims": [vars(c) for c in found.claims], "notes": found.notes})  # fmt: skip
        return
    shown = [(measure, who) for measure in found.measures for who in publications(found, measure)]
    print(f"{found.title}\n{found.source}; models train on {found.corpus}\n")
    print_table(
        ("row", *(f"{HEADINGS.get(measure, measure)} ({who})" for measure, who in shown)),
        [(row.title, *(published_text(row, who, measure) for measure, who in shown)) for row in found.rows],
    )
    for claim in found.claims:
        first, second = found.row(claim.first).title, found.row(claim.second).title
        print(f"claim: {HEADINGS.get(claim.measure, claim.measure)} of {first} {claim.relation} {second}")
    for note in found.notes:
        print(f"note: {note}")


@app.command()
def run(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="Tables to run; all of them when left out.")
    ] = None,
    scale: Annotated[str, typer.Option(help="smoke, cpu, gpu or paper.", metavar="SCALE")] = "smoke",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where work and reports go. [default: reproduction/SCALE]")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Local copy of a registered data set; repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Seeds 0..N-1. [default: the scale's]")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Worker processes. [default: a core each; 1 with an accelerator]"),
    ] = None,
    plots: Annotated[
        bool | None, typer.Option("--plots/--no-plots", help="Draw a picture a table. [default: with matplotlib]")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Train and measure every row of the tables, and report them beside the published numbers.

    Interrupted or repeated, it goes on where it stopped: trainings and measurements that are done are kept.
    """
    from bd3cli.reproduce.scales import get_scale
    from bd3cli.reproduce.tables import load_table, table_names

    chosen = [load_table(name) for name in dict.fromkeys(tables or table_names())]
    if scale == "paper":
        from bd3cli.reproduce.paper import commands

        switch = None if plots is None else "--plots" if plots else "--no-plots"
        given = (("--out", out), ("--data", data), ("--seeds", seeds), ("--jobs", jobs), (str(switch), switch))
        refuse_ignored(scale, [name for name, value in given if value is not None])
        listed = [line for table in chosen for line in commands(table)]
        if json:
            emit_json({"scale": "paper", "commands": listed})
        else:
            print("\n".join(listed))
        return
    chosen_scale = get_scale(scale)
    if scale == "smoke":
        refuse_ignored(scale, ["--data"] if data else [])
    from bd3cli.cli.view.reproduction import ReproductionProgress
    from bd3cli.reproduce.plots import can_draw
    from bd3cli.reproduce.pool import default_jobs
    from bd3cli.reproduce.request import Request
    from bd3cli.reproduce.runner import reproduce

    drawing = can_draw()
    if plots and not drawing:
        raise InputError("Pictures need matplotlib. Install it with: python -m pip install 'bd3cli[plot]'")
    if plots is None and not drawing:
        notice("no pictures: matplotlib is not installed (python -m pip install 'bd3cli[plot]')")
    request = Request(
        tables=tuple(chosen),
        scale=chosen_scale,
        out=out or Path("reproduction") / scale,
        data=local_copies(data or []),
        seeds=seeds,
        jobs=jobs or default_jobs(),
        plots=drawing if plots is None else plots,
        command=shlex.join(["bd3cli", *sys.argv[1:]]),
    )
    with ReproductionProgress() as watch:
        finished = reproduce(request, watch)
    if finished.signal is not None:
        notice("interrupted; what is done is kept, and the same command goes on from here.")
        raise typer.Exit(128 + finished.signal)
    if json:
        emit_json({"scale": scale, "out": str(request.out), "tables": [r.as_dict() for r in finished.results]})
        return
    for result in finished.results:
        from bd3cli.reproduce.report import body, columns

        print_table(columns(result), [[c.replace("&nbsp;", " ") for c in row] for row in body(result)],
                    title=f"{result.table.name}: {result.table.title}")  # fmt: skip
        verdicts = [outcome.verdict for outcome in result.outcomes]
        print(", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)) + " of the published orderings\n"
              if verdicts else "")  # fmt: skip
    print(f"report: {request.out / 'index.html'}")


def refuse_ignored(scale: str, options: list[str]) -> None:
    """An option that a scale would not read is an error."""
    if options:
        why = "it prints commands" if scale == "paper" else "every corpus is a slice of the embedded one"
        raise InputError(f"{options[0]} has no effect at scale {scale}, where {why}. Leave it out.")


def local_copies(given: list[str]) -> dict[str, str]:
    """``NAME=PATH`` texts as a mapping.

    Raises:
        InputError: a text of another form, or a path that is not there.
    """
    copies = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise InputError(f"--data {text!r} is not NAME=PATH, for example --data lm1b=lm1b/.")
        if not Path(path).exists():
            raise InputError(f"--data {name}: there is no file or directory {path}.")
        copies[name] = path
    return copies
