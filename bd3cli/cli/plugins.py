"""`bd3cli plugins`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bd3cli.cli.common import JsonFlag, emit_json
from bd3cli.cli.view.tables import print_table

app = typer.Typer(help="Plugins: what is installed, what is broken, how to start one.", no_args_is_help=True)


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """Installed plugins: distribution, version, what each provides, and why one does not load."""
    from bd3cli.plugins import load_plugins

    records = load_plugins().imported()
    if json:
        emit_json({"plugins": [asdict(record) for record in records]})
        return
    print_table(
        ("distribution", "version", "provides", "hooks", "state"),
        [
            (
                r.distribution,
                r.version,
                ", ".join(r.provides) or "-",
                ", ".join(r.hooks) or "-",
                "ok" if r.error is None else f"BROKEN: {r.error}",
            )
            for r in records
        ],
    )


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case words with hyphens, for example my-noise.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="schedule, weight, masking, sampler, dataset or tokenizer; repeatable. "
            "[default: a schedule and a weight]",
            metavar="KIND",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Directory to create (default bd3cli-NAME).")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Write a plugin that installs and passes its own tests: code of each kind asked for, tests, README."""
    from bd3cli.plugins.scaffold import DEFAULT, scaffold, usage

    folder, kinds = Path(f"bd3cli-{name}") if out is None else out, kind or DEFAULT
    files = scaffold(name, folder, kinds)
    if json:
        emit_json({"path": str(folder), "files": [str(f) for f in files]})
        return
    print(f"Wrote {folder}:")
    for file in files:
        print(f"  {file}")
    print(f"\nNext:\n  python -m pip install -e {folder}\n  python -m pytest {folder}")
    print("".join(f"  {command}\n" for command in usage(name, kinds)), end="")
