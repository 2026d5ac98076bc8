"""`bd3cli zeroshot`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, emit_json, json_line, progress_bar
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from bd3cli.evaluation import Likelihood
    from bd3cli.studies.zero_shot import ZeroShotRow


def zeroshot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    datasets: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Registered names, hub names or files. [default: the paper's suite]"),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="A local copy of a data set, or any other text.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.", metavar="NAME")] = "validation",
    estimator: Annotated[
        str | None, typer.Option(help="count, uniform or exact. [default: the recipe's]", metavar="NAME")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="none, or ngram: less Monte Carlo noise. [default: the recipe's]", metavar="NAME")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="Forward passes a sequence (count, uniform).", min=1, metavar="N")
    ] = None,
    sequences: Annotated[
        int | None, typer.Option(help="Use a fixed random subset of this many of each.", min=2, metavar="N")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the estimator's masks.", metavar="N")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a forward pass.", min=1, metavar="N")] = None,
    checkpoint: CheckpointOption = "best",
    attention: Annotated[str, typer.Option(help="Block attention backend.", metavar="NAME")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", metavar="D")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Append each row to this JSON Lines file as it is done.", metavar="FILE")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    json: JsonFlag = False,
) -> None:
    """Perplexity with its 95% interval on data sets the runs were not trained on: one table, runs by data sets.

    A data set that cannot be had is listed as such, with the reason, and the others go on; the exit code is then 1.
    """
    from bd3cli.cli.data import check_split
    from bd3cli.rng import STREAM_VERSION
    from bd3cli.runs import Run
    from bd3cli.studies import zero_shot as library

    chosen = check_split(split)
    wanted = library.targets(datasets.split(",") if datasets else None, parse_copies(data or []))
    loaded = (Run.load(path, checkpoint=checkpoint, device=device, attention=attention) for path in dict.fromkeys(runs))
    with ExitStack() as stack:
        keep = stack.enter_context(_open(out)) if out else None  # before the work: a bad path costs nothing

        def on_row(row: ZeroShotRow) -> None:
            if keep is not None:
                keep.write(json_line(row.summary()))
                keep.flush()

        bar = stack.enter_context(progress_bar("zero-shot"))
        task = bar.add_task("zeroshot", total=None, note="")
        rows = library.zeroshot(
            loaded, wanted, split=chosen, on_row=on_row,
            progress=lambda run, name, done, total: bar.update(
                task, completed=done, total=total, note=f"{name} of {run}"
            ),
            estimator=estimator, control=control, draws=draws, sequences=sequences, seed=seed, batch_size=batch_size,
        )  # fmt: skip
    missing = {row.dataset: row.reason for row in rows if row.likelihood is None}
    if json:
        emit_json(
            {
                "rows": [row.summary() for row in rows],
                "missing": [{"dataset": name, "reason": reason} for name, reason in missing.items()],
                "policy": library.policy(chosen),
                "stream_version": STREAM_VERSION,
            }
        )
    else:
        _print(rows, missing, library.policy(chosen), markdown)
    if missing:
        raise typer.Exit(1)


def parse_copies(given: list[str]) -> dict[str, str]:
    """``NAME=PATH`` options as a mapping."""
    from bd3cli.errors import InputError

    copies = {}
    for item in given:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise InputError(f"--data {item!r} is not NAME=PATH, for example --data lm1b=1b_benchmark.test.tokens.")
        copies[name] = path
    return copies


def _open(out: Path) -> TextIO:
    from bd3cli.errors import InputError

    try:
        return out.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}. Choose another --out.") from error


def _print(rows: list[ZeroShotRow], missing: dict[str, str | None], policy: dict[str, str], markdown: bool) -> None:
    names = list(dict.fromkeys(row.dataset for row in rows))
    table = _markdown if markdown else print_table
    table(("run", "estimator", *names), _table(rows, names, _perplexity))
    tokenizers = {row.data["tokenizer"] for row in rows if row.likelihood is not None}
    if len(tokenizers) > 1:
        print("\nBits per byte, which compare across tokenizers:\n")
        table(("run", "estimator", *names), _table(rows, names, _bits))
    if missing:
        print("\nNo data; give a local copy with --data NAME=PATH:")
        for name, reason in missing.items():
            print(f"- {name}: {reason}")
    print("\nPolicy:")
    for key, text in policy.items():
        print(f"- {key}: {text}")
    print("- detokenizers: " + ", ".join(f"{name} {found}" for name, found in _detokenizers(rows).items()))
    print(f"- tokenizer: {', '.join(sorted(tokenizers)) or 'none used'}")


def _table(rows: list[ZeroShotRow], names: list[str], cell: Callable[[Likelihood], str]) -> list[list[str]]:
    """One line a run, one column a data set."""
    out = []
    for run in dict.fromkeys(row.run for row in rows):
        mine = {row.dataset: row for row in rows if row.run == run}
        kinds = {_kind(row.likelihood) for row in mine.values() if row.likelihood is not None}
        out.append([run, ", ".join(sorted(kinds)) or "-", *(_cell(mine[name], cell) for name in names)])
    return out


def _cell(row: ZeroShotRow, cell: Callable[[Likelihood], str]) -> str:
    return "no data" if row.likelihood is None else cell(row.likelihood)


def _kind(found: Likelihood) -> str:
    return f"{found.estimator}{'' if found.exact else ' (upper bound)'}"


def _perplexity(found: Likelihood) -> str:
    low, high = found.ppl_ci95
    return f"{found.ppl:.4g} ({low:.4g} to {high:.4g}; n {found.mean.effective:.0f})"


def _bits(found: Likelihood) -> str:
    return "-" if found.bits_per_byte is None else f"{found.bits_per_byte:.4f}"


def _detokenizers(rows: list[ZeroShotRow]) -> dict[str, str]:
    return {row.dataset: str(row.data.get("detokenizer", "none")) for row in rows if row.likelihood is not None}


def _markdown(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
