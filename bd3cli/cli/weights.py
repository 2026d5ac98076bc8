"""`bd3cli weights`."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Annotated

import typer

from bd3cli.cli.common import JsonFlag, emit_json
from bd3cli.cli.registered import (
    DEFAULT_POINTS,
    PngOption,
    PointsOption,
    describe,
    draw,
    numbers,
    print_list,
    print_parameters,
    report_laws,
    summary,
)
from bd3cli.cli.view.tables import print_table

app = typer.Typer(
    help="Loss weights: what is installed, their values, laws and pictures. Evaluation never uses one.",
    no_args_is_help=True,
)

Spec = Annotated[str, typer.Argument(metavar="WEIGHT", help="A name, or name:key=value,... as in sigmoid:k=0.")]
Specs = Annotated[list[str], typer.Argument(metavar="WEIGHT...", help="One or more loss weights.")]
Schedule = Annotated[str, typer.Option("--schedule", metavar="S", help="The noise schedule it is combined with.")]


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """The loss weights installed, and where each comes from."""
    from bd3cli.plugins import load_plugins

    registry = load_plugins().weights
    rows = [describe(registry, entry) for entry in registry.entries()]
    if json:
        emit_json({"weights": rows})
    else:
        print_list(rows)


@app.command()
def show(
    weight: Spec, points: PointsOption = DEFAULT_POINTS, schedule: Schedule = "loglinear", json: JsonFlag = False
) -> None:
    """Parameters of a loss weight, and its values at chosen times of a schedule."""
    import torch

    from bd3cli.parameters import describe_parameters
    from bd3cli.plugins import load_plugins
    from bd3cli.schedules import get_schedule
    from bd3cli.spec import format_spec, parse_spec

    registry = load_plugins().weights
    instance, entry = registry.make(weight), registry.entry(parse_spec(weight).name)
    t = torch.tensor(numbers(points), dtype=torch.float64)
    noise = get_schedule(schedule).noise(t)
    factor = instance.weight(noise.alpha, noise.dalpha_dt)
    columns = (t, noise.alpha, factor, noise.weight, instance.scaled(noise))
    names = ("t", "alpha", "weight", "nelbo_weight", "product")
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    parameters = describe_parameters(type(instance))
    if json:
        emit_json(
            {
                "name": entry.name,
                "spec": format_spec(entry.name, instance),
                "distribution": entry.distribution,
                "version": entry.version,
                "summary": summary(type(instance)),
                "parameters": {p.name: getattr(instance, p.name) for p in parameters},
                "parameter_info": [asdict(p) for p in parameters],
                "schedule": schedule,
                "points": rows,
            }
        )
        return
    print(f"{format_spec(entry.name, instance)}  (from {entry.distribution} {entry.version}), under {schedule}")
    print(f"{inspect.cleandoc(type(instance).__doc__ or '')}\n")
    print_parameters(parameters, instance)
    print_table(
        ("t", "alpha", "loss weight", "NELBO weight", "their product"),
        [tuple(f"{value:.6g}" for value in row.values()) for row in rows],
    )


@app.command()
def check(
    weights: Specs,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="S", help="Also check the products under this schedule.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check the laws a loss weight must obey; exit 1 if one fails."""
    from bd3cli.schedules import get_schedule
    from bd3cli.testing import check_weight
    from bd3cli.weights import get_weight

    noise = None if schedule is None else get_schedule(schedule)
    report_laws({spec: check_weight(get_weight(spec), noise) for spec in weights}, json)


@app.command()
def plot(weights: Specs, schedule: Schedule = "loglinear", png: PngOption = None, json: JsonFlag = False) -> None:
    """Draw loss weights against the mask rate; several for comparison."""
    from bd3cli.schedules import get_schedule
    from bd3cli.studies.curves import weight_panels
    from bd3cli.weights import get_weight

    draw(weight_panels({spec: get_weight(spec) for spec in weights}, get_schedule(schedule)), png, json)
