"""`bd3cli data`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from bd3cli.cli.common import JsonFlag, emit_json, notice, progress_bar
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from bd3cli.data.overlap import Overlap
    from bd3cli.data.splits import Split
    from bd3cli.recipes.settings import DataConfig

app = typer.Typer(help="Data sets: what is known, what is in them, tokenising ahead of time.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="DATA", help="Registered name, hub name, or local file or directory.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="bytes (the default), a tiktoken encoding, a .tiktoken file, or a plugin's.", metavar="T"),
]
Length = Annotated[int, typer.Option(help="Context length in tokens.", min=2, metavar="L")]
DataSet = Annotated[
    list[str] | None, typer.Option("--set", help="Set a key of the data section; repeatable.", metavar="data.KEY=VALUE")
]


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
    set_: DataSet = None,
    json: JsonFlag = False,
) -> None:
    """The first documents of a split, as training sees them."""
    from bd3cli.data import resolve_documents

    documents = resolve_documents(data_config(name, None, set_), check_split(split))
    shown = [documents[i] for i in range(min(num, len(documents)))]
    if json:
        emit_json({"data": dict(documents.description), "documents": [d[:width] for d in shown]})
        return
    for index, text in enumerate(shown):
        cut = "" if len(text) <= width else f" (first {width} of {len(text)} characters)"
        print(f"--- document {index + 1} of {len(documents)}{cut} ---\n{text[:width]}\n")


@app.command()
def prepare(
    name: Name = "pydocs",
    tokenizer: Tokenizer = None,
    length: Length = 128,
    overlap: Annotated[
        bool, typer.Option("--overlap/--no-overlap", help="Look for validation and test text in the training text.")
    ] = True,
    set_: DataSet = None,
    json: JsonFlag = False,
) -> None:
    """Tokenise and cache all splits ahead of time, and report how much held-out text stands in train."""
    from bd3cli.data import load_split, overlap_of_splits

    config = data_config(name, tokenizer, set_)
    rows = []
    splits = _splits(config)
    for split in splits:
        with progress_bar(f"tokenising {split}") as bar:
            task = bar.add_task("data", total=None, note="")
            show = partial(_advance, bar, task)
            packed = load_split(config, split, length, progress=show)
        rows.append({"split": split, "sequences": len(packed), "tokens": packed.n_tokens, **packed.description})
    found: dict[Split, Overlap] = {}
    held_out = tuple(split for split in splits if split != "train")
    if overlap and held_out and "train" in splits:
        with progress_bar("looking for repeated text") as bar:
            task = bar.add_task("data", total=None, note="")
            found = overlap_of_splits(config, held_out, progress=partial(_advance, bar, task))
    for row in rows:
        measured = found.get(row["split"])
        row["overlap_with_train"] = None if measured is None else asdict(measured)
    _warn_of_overlap(found)
    if json:
        emit_json({"splits": rows})
        return
    columns = ("documents", "sequences", "tokens")
    print_table(
        ("split", *columns, "in train", "fingerprint"),
        [(r["split"], *(r[c] for c in columns), _percent(found.get(r["split"])), r["fingerprint"][:16]) for r in rows],
    )


def data_config(name: str, tokenizer: str | None, overrides: list[str] | None) -> DataConfig:
    """The data section that a data set's name and ``--set data.KEY=VALUE`` make."""
    from bd3cli.errors import InputError
    from bd3cli.recipes.resolve import resolve

    for text in overrides or []:
        if not text.strip().startswith("data."):
            raise InputError(f"--set {text!r} is not read here: this command only reads keys of the data section.")
    options = {"name": name, **({"tokenizer": tokenizer} if tokenizer else {})}
    named = {f"data.{key}": (value, "the command line") for key, value in options.items()}
    return resolve(None, named, overrides or []).recipe.data


def _splits(config: DataConfig) -> list[Split]:
    """Those there are: a registered data set may lack one, lambada its training split for example."""
    from bd3cli.data.corpora import find_dataset, is_registered
    from bd3cli.data.splits import SPLITS

    explicit = {split for split in SPLITS if getattr(config, split)}
    if explicit and config.name == "pydocs":  # files on their own
        return [split for split in SPLITS if split in explicit]
    known = find_dataset(config.name).splits if is_registered(config.name) else SPLITS
    return [split for split in SPLITS if split in known or split in explicit]


def _warn_of_overlap(found: dict[Split, Overlap]) -> None:
    from bd3cli.data.overlap import TOLERATED

    for split, overlap in found.items():
        if overlap.share > TOLERATED:
            notice(
                f"warning: {overlap.share:.1%} of the {split} text stands in the training text, in runs of "
                f"{overlap.run} or more characters or as whole documents. A model that has memorised them scores well "
                "on it: take them out of train, or divide the data otherwise."
            )


def _percent(overlap: Overlap | None) -> str:
    if overlap is None:
        return "-"
    return f"{overlap.share:.2%}" + (" (of a sample)" if overlap.documents < overlap.of_documents else "")


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
