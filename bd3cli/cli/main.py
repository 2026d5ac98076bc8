"""The application: global options, and how errors leave it."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bd3cli.cli import (
    bench,
    checkpoint,
    config,
    data,
    evaluate,
    finetune,
    length_stats,
    maskings,
    plugins,
    reproduce,
    runs,
    sample,
    schedules,
    train,
    weights,
    zeroshot,
)
from bd3cli.cli.streams import reliable_streams, undelivered
from bd3cli.errors import IMPOSSIBLE_PATHS, BD3Error, Followed, InputError
from bd3cli.faults import blaming_plugins
from bd3cli.version import __version__

GLOBAL_FLAGS = ("--debug", "--strict-plugins")
OVERFLOWS = ("Maximum allowed dimension exceeded", "Overflow when unpacking long", "exceeds the limit (4300 digits)")


class Commands(TyperGroup):
    """Every command; one that a plugin's code ends, even by `sys.exit`, ends with an error that names the plugin."""

    def invoke(self, ctx: Any) -> Any:
        with blaming_plugins():
            return super().invoke(ctx)


app = typer.Typer(
    name="bd3cli",
    cls=Commands,
    help="Train, evaluate and sample block diffusion language models.",
    epilog="Exit codes: 0 done, 1 a run or check failed, 2 bad usage, recipe or input, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("finetune")(finetune.finetune)
app.command("eval")(evaluate.evaluate)
app.command("zeroshot")(zeroshot.zeroshot)
app.command("sample")(sample.sample)
app.command("length-stats")(length_stats.length_stats)
app.add_typer(schedules.app, name="schedules")
app.add_typer(weights.app, name="weights")
app.add_typer(maskings.app, name="maskings")
app.add_typer(plugins.app, name="plugins")
app.add_typer(data.app, name="data")
app.add_typer(reproduce.app, name="reproduce")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(runs.app, name="runs")
app.add_typer(config.app, name="config")
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bd3cli {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    strict_plugins: Annotated[
        bool, typer.Option("--strict-plugins", help="Fail when any installed plugin does not load.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options that every command understands, before or after its name."""
    if debug:
        os.environ["BD3CLI_DEBUG"] = "1"
    if strict_plugins:
        from bd3cli.plugins import require_plugins_ok

        require_plugins_ok()


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit.

    Errors meant for the user become one line on stderr; anything else is a defect and says so.
    """
    with reliable_streams():
        try:
            code = _run(sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt:
            code = 130
        if (error := undelivered()) is not None:
            _report(f"the output could not be written: {error.strerror}. Files the command writes are complete.", error)
            code = code or 1
    sys.exit(code)


def _run(argv: list[str]) -> int:
    """Run a command line; its exit code."""
    try:
        app(args=hoist_global_flags(argv), prog_name="bd3cli")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except Followed as error:
        return error.exit_code
    except BD3Error as error:
        _report(str(error), error)
        return error.exit_code
    except Exception as error:
        if (mistake := impossible(error)) is not None:
            _report(mistake, error)
            return InputError.exit_code
        if isinstance(error, (MemoryError, RuntimeError, OSError)):
            _report(f"{type(error).__name__}: {error}. Run again with --debug for the traceback.", error)
            return 1
        _report(f"this is a defect in bd3cli ({type(error).__name__}: {error}). --debug shows where.", error)
    return 1


def hoist_global_flags(arguments: list[str]) -> list[str]:
    """Move global flags to the front, so that ``bd3cli train --debug`` works too; stops at ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [a for a in arguments[:end] if a in GLOBAL_FLAGS]
    rest = [a for a in arguments[:end] if a not in GLOBAL_FLAGS]
    return [*dict.fromkeys(flags), *rest, *arguments[end:]]


def impossible(error: Exception) -> str | None:
    """What to tell the user of a path or a number that the system below refuses, wherever that comes up."""
    if isinstance(error, OSError) and error.errno in IMPOSSIBLE_PATHS and error.filename is not None:
        return f"The path {str(error.filename)!r} cannot be used: {error.strerror}. Give another one."
    if isinstance(error, OverflowError) or any(text in str(error) for text in OVERFLOWS):
        return f"A number is too large to work with ({str(error).splitlines()[0]}). Choose a smaller one."
    return None


def _report(message: str, error: BaseException) -> None:
    if os.environ.get("BD3CLI_DEBUG"):
        import traceback

        traceback.print_exception(error)
    shortened = re.sub(r"(\S{80})\S{150,}(\S{20})", r"\1...\2", message)  # a value of a thousand characters
    sys.stderr.write(f"bd3cli: error: {shortened}\n")
