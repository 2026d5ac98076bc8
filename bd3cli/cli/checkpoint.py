"""`bd3cli checkpoint`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bd3cli.cli import recipe_options as o
from bd3cli.cli.common import CheckpointOption, JsonFlag, RunArgument, emit_json, notice
from bd3cli.cli.view.tables import print_table
from bd3cli.errors import InputError

app = typer.Typer(help="Checkpoints: in from elsewhere, out again, and whether they are whole.", no_args_is_help=True)


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A directory with config.json and model.safetensors, a .ckpt file, or org/name of the hub.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run directory to create.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Its tokenizer. [default: by vocabulary size]", metavar="T")
    ] = None,
    data: o.Data = None,
    family: Annotated[str | None, typer.Option(help="When a .ckpt does not say: ar, sedd, mdlm, bd3lm.")] = None,
    block_size: Annotated[int | None, typer.Option(help="When a .ckpt does not say.", metavar="B", min=1)] = None,
    length: Annotated[int | None, typer.Option(help="When a .ckpt does not say.", metavar="L", min=1)] = None,
    set_: o.Set = None,
    json: JsonFlag = False,
) -> None:
    """Make a run of a published or a Lightning checkpoint, which eval, sample and finetune then take.

    Every tensor must be there, be expected and have the right shape. Pickles are read, never run.
    """
    from bd3cli.exchange.importing import import_checkpoint
    from bd3cli.exchange.inspection import describe, open_checkpoint

    told = {"model_type": family, "block_size": block_size, "model_length": length}
    run, notices = import_checkpoint(
        source, out, tokenizer=tokenizer, told=told, options=o.given_options(data=data), overrides=set_ or [],
        argv=sys.argv[1:],
    )  # fmt: skip
    for text in notices:
        notice(text)
    shown = describe(open_checkpoint(run.path))
    if json:
        emit_json(shown)
        return
    print(
        f"{shown['family']}, block size {shown['block_size']}, length {shown['length']}, "
        f"{shown['parameters']:,} parameters, step {shown['step']}\nrun: {run.path}"
    )


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to create.")],
    checkpoint: CheckpointOption = "best",
    weights: Annotated[str, typer.Option(help="averaged or raw.", metavar="WHICH")] = "averaged",
    json: JsonFlag = False,
) -> None:
    """Write config.json and model.safetensors in the layout of the published models."""
    from bd3cli.exchange.inspection import export as write

    if weights not in ("averaged", "raw"):
        raise InputError(f"--weights must be averaged or raw, not {weights!r}.")
    written = write(run, out, checkpoint, "raw" if weights == "raw" else "averaged")
    if json:
        emit_json(written)
    else:
        print(f"{written['parameters']:,} parameters, weights {written['weights_sha256'][:12]}: {out}")


@app.command()
def show(run: RunArgument, checkpoint: CheckpointOption = "best", json: JsonFlag = False) -> None:
    """What a checkpoint is, and which runs it descends from."""
    from bd3cli.exchange.inspection import describe, open_checkpoint

    shown = describe(open_checkpoint(run, checkpoint))
    if json:
        emit_json(shown)
        return
    plain = {key: value for key, value in shown.items() if not isinstance(value, (dict, list)) and value is not None}
    rows: list[tuple[object, object]] = list(plain.items())
    if shown["validation"]:
        rows.append(("validation perplexity", f"{shown['validation']['ppl']:.4f}"))
    if shown["imported"]:
        rows.append(("imported from", f"{shown['imported']['source']} ({shown['imported']['format']})"))
    rows += [
        ("started from", f"{p['run']} {p['checkpoint']} ({p['family']}, L' {p['block_size']}, {p['weights']} weights "
                         f"{p['weights_sha256'][:12]})")
        for p in shown["chain"]
    ]  # fmt: skip
    print_table(("", ""), rows)


@app.command()
def verify(
    run: RunArgument,
    checkpoint: CheckpointOption = "best",
    perplexity: Annotated[
        bool, typer.Option("--perplexity", help="Repeat the recorded validation and compare its perplexity.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check files, names, shapes, types, values and the number of parameters; exit 1 when one fails."""
    from bd3cli.exchange.inspection import verify as check

    checks = check(run, checkpoint, perplexity)
    ok = all(c.ok for c in checks)
    if json:
        emit_json({"ok": ok, "checks": [asdict(c) for c in checks]})
    else:
        print_table(("", "check", "detail"), [("ok" if c.ok else "FAILED", c.check, c.detail) for c in checks])
    if not ok:
        raise typer.Exit(1)
