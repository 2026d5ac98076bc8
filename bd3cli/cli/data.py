"""`bd3cli data`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from bd3cli.cli.common import JsonFlag, emit_json, print_table, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from bd3cli.data.splits import Split

app = typer.Typer(help="Data sets: what is known, what is in them, tokenising ahead of time.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="DATA", help="Registered name, hub name, or local file or directory.")]
Tokenizer = Annotated[str, typer.Option(help="bytes, a tiktoken encoding, or a .tiktoken file.", metavar="T")]
Length = Annotated[int, typer.Option(help="Context length in tokens.", min=2, metavar="L")]


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """The data sets known by name."""
    from bd3cli.data import list_datasets

    datasets = list_datasets()
    if json:
        emit_json({"datasets": [asdict(d) for d in datasets]})
        return
    rows = [(d.name, ", ".join(d.splits), d.document, d.offline, d.description) for d in datasets]
    print_table(("name", "splits", "document", "offline", "description"), rows)
    print("\nAny hub name or local .txt, .jsonl, .parquet or .csv file or directory works too.")


@app.command()
def show(
    name: Name,
    split: Annotated[str, typer.Option(help="train, validation or test.", metavar="NAME")] = "train",
    num: Annotated[int, typer.Option(help="Documents to show.", min=1, metavar="N")] = 3,
    width: Annotated[int, typer.Option(help="Characters of each.", min=1, metavar="N")] = 400,
    json: JsonFlag = False,
) -> None:
    """The first documents of a split, as training sees them."""
    from bd3cli.config import DataConfig
    from bd3cli.data import resolve_documents

    documents = resolve_documents(DataConfig(name=name), check_split(split))
    shown = [documents[i] for i in range(min(num, len(documents)))]
    if json:
        emit_json({"data": dict(documents.description), "documents": [d[:width] for d in shown]})
        return
    for index, text in enumerate(shown):
        cut = "" if len(text) <= width else f" (first {width} of {len(text)} characters)"
        print(f"--- document {index + 1} of {len(documents)}{cut} ---\n{text[:width]}\n")


@app.command()
def prepare(
    name: Name = "pydocs", tokenizer: Tokenizer = "bytes", length: Length = 128, json: JsonFlag = False
) -> None:
    """Tokenise and cache all splits ahead of time."""
    from bd3cli.config import DataConfig
    from bd3cli.data import list_datasets, load_split

    config = DataConfig(name=name, tokenizer=tokenizer)
    rows = []
    # a registered data set may lack one, lambada its training split for example
    splits = {d.name: d.splits for d in list_datasets()}.get(name, ("train", "validation", "test"))
    for split in splits:
        with progress_bar(f"tokenising {split}") as bar:
            task = bar.add_task("data", total=None, note="")
            show = partial(_advance, bar, task)
            packed = load_split(config, check_split(split), length, progress=show)
        rows.append({"split": split, "sequences": len(packed), "tokens": packed.n_tokens, **packed.description})
    if json:
        emit_json({"splits": rows})
        return
    print_table(
        ("split", "documents", "sequences", "tokens", "fingerprint"),
        [(r["split"], r["documents"], r["sequences"], r["tokens"], r["fingerprint"][:16]) for r in rows],
    )


def _advance(bar: Progress, task: TaskID, stage: str, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total, note=stage)


def check_split(name: str) -> Split:
    """The split called `name`, or an error that names the three."""
    from bd3cli.errors import InputError

    split: Split
    for split in ("train", "validation", "test"):
        if name == split:
            return split
    raise InputError(f"There is no split {name!r}. Choose train, validation or test.")
