"""`bd3cli schedules`."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Annotated

import typer

from bd3cli.cli.clip_search import search
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

app = typer.Typer(help="Noise schedules: what is installed, their values, laws and pictures.", no_args_is_help=True)
app.command("search")(search)

Spec = Annotated[str, typer.Argument(metavar="SCHEDULE", help="A name, or name:key=value,... as in gaussian:mu=0.6.")]
Specs = Annotated[list[str], typer.Argument(metavar="SCHEDULE...", help="One or more schedules.")]


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """The schedules installed, and where each comes from."""
    from bd3cli.plugins import load_plugins

    registry = load_plugins().schedules
    rows = [describe(registry, entry) for entry in registry.entries()]
    if json:
        emit_json({"schedules": rows})
    else:
        print_list(rows)


@app.command()
def show(schedule: Spec, points: PointsOption = DEFAULT_POINTS, json: JsonFlag = False) -> None:
    """Parameters of a schedule, and its values at chosen times."""
    import torch

    from bd3cli.parameters import describe_parameters
    from bd3cli.plugins import load_plugins
    from bd3cli.spec import format_spec, parse_spec

    registry = load_plugins().schedules
    instance, entry = registry.make(schedule), registry.entry(parse_spec(schedule).name)
    t = torch.tensor(numbers(points), dtype=torch.float64)
    noise = instance.noise(t)
    columns = [x.tolist() for x in (t, noise.mask_prob, noise.rate, noise.weight)]
    rows = [dict(zip(("t", "mask_prob", "rate", "weight"), row, strict=True)) for row in zip(*columns, strict=True)]
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
                "floor": instance.floor,
                "sweeps": instance.sweeps,
                "t_min": instance.t_min,
                "only_block_size": instance.only_block_size,
                "points": rows,
            }
        )
        return
    print(f"{format_spec(entry.name, instance)}  (from {entry.distribution} {entry.version})")
    print(f"{inspect.cleandoc(type(instance).__doc__ or '')}\n")
    print_parameters(parameters, instance)
    print_table(
        ("t", "mask probability", "rate dp/dt", "NELBO weight"),
        [tuple(f"{value:.6g}" for value in row.values()) for row in rows],
    )


@app.command()
def check(schedules: Specs, json: JsonFlag = False) -> None:
    """Check the laws a schedule must obey; exit 1 if one fails."""
    from bd3cli.schedules import get_schedule
    from bd3cli.testing import check_schedule

    report_laws({spec: check_schedule(get_schedule(spec)) for spec in schedules}, json)


@app.command()
def plot(schedules: Specs, png: PngOption = None, json: JsonFlag = False) -> None:
    """Draw mask probability, weight and distribution of mask rates; several schedules for comparison."""
    from bd3cli.schedules import get_schedule
    from bd3cli.studies.curves import schedule_panels

    draw(schedule_panels({spec: get_schedule(spec) for spec in schedules}), png, json)
