"""`bd3cli maskings`."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Annotated

import typer

from bd3cli.cli.common import JsonFlag, emit_json
from bd3cli.cli.registered import describe, print_list, print_parameters, report_laws, summary

app = typer.Typer(help="Maskings: how training masks are drawn; what is installed, and its laws.", no_args_is_help=True)

Spec = Annotated[str, typer.Argument(metavar="MASKING", help="A name, or name:key=value,...")]


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """The maskings installed, and where each comes from."""
    from bd3cli.plugins import load_plugins

    registry = load_plugins().maskings
    rows = [describe(registry, entry) for entry in registry.entries()]
    if json:
        emit_json({"maskings": rows})
    else:
        print_list(rows)


@app.command()
def show(masking: Spec, json: JsonFlag = False) -> None:
    """What a masking does, and its parameters."""
    from bd3cli.parameters import describe_parameters
    from bd3cli.plugins import load_plugins
    from bd3cli.spec import format_spec, parse_spec

    registry = load_plugins().maskings
    instance, entry = registry.make(masking), registry.entry(parse_spec(masking).name)
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
                "uses_schedule": instance.uses_schedule,
            }
        )
        return
    print(f"{format_spec(entry.name, instance)}  (from {entry.distribution} {entry.version})")
    print(f"{inspect.cleandoc(type(instance).__doc__ or '')}\n")
    print_parameters(parameters, instance)
    reads = "reads the noise schedule and the clip" if instance.uses_schedule else "draws no time: it has no schedule"
    print(f"It {reads}.")


@app.command()
def check(
    maskings: Annotated[list[str], typer.Argument(metavar="MASKING...", help="One or more maskings.")],
    json: JsonFlag = False,
) -> None:
    """Check the laws a masking must obey; exit 1 if one fails."""
    from bd3cli.maskings import get_masking
    from bd3cli.testing import check_masking

    report_laws({spec: check_masking(get_masking(spec)) for spec in maskings}, json)
