"""What docs/architecture.md says of rooms, floors and ways is so."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from test_architecture import FLOORS

import bd3cli
from bd3cli.recipes.resolve import resolve
from bd3cli.sampling import generate, make_request
from bd3cli.training.distributed import joined
from bd3cli.training.loop import optimizer_step, step_data
from bd3cli.training.reporter import Silent
from bd3cli.training.trainer import prepare

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = Path(bd3cli.__file__).parent
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    _, _, rest = PAGE.partition(f"# {title}\n")
    assert rest, f"no heading {title!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """The first column of the only table in a text, without its heading."""
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


@contextmanager
def rooms_entered() -> Iterator[list[str]]:
    """Names of the rooms above the first floor whose functions are called, in the order of the first call."""
    seen: list[str] = []
    left_out = {*FLOORS[0], *FLOORS[1]}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents and frame.f_code.co_name != "<module>":
            parts = path.relative_to(PACKAGE).parts
            if len(parts) > 1 and parts[0] not in {*seen, *left_out}:
                seen.append(parts[0])

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def test_the_floors_are_those_of_the_rule() -> None:
    rows = [line.split("|")[1:3] for line in section("Rooms and floors").splitlines() if re.match(r"\| \d", line)]
    written = {int(height): {room.strip() for room in rooms.split(",")} for height, rooms in rows}
    assert written == {height: set(rooms) for height, rooms in enumerate(FLOORS)}
    assert [int(height) for height, _ in rows] == sorted(written, reverse=True)


def test_the_way_of_a_batch(quick: tuple[str, ...]) -> None:
    with joined() as group:
        trainer = prepare(resolve("tiny", overrides=[*quick, "train.steps=1"]).recipe, Silent(), group)
        with rooms_entered() as seen:
            optimizer_step(trainer, step_data(trainer, 0))
    assert seen == first_cells(section("One batch, through a training step"))


def test_the_way_of_an_eval(trained: Path) -> None:
    with rooms_entered() as seen:
        run = bd3cli.load(str(trained))
        run.evaluate(run.split("test"), sequences=8)
    assert seen == first_cells(section("One `eval`"))


def test_the_way_of_a_prompt(trained: Path) -> None:
    run = bd3cli.load(str(trained))
    assert run.tokenizer is not None
    with rooms_entered() as seen:
        request = make_request(run.model, run.tokenizer, prompt="The ")
        generate(run.model, run.tokenizer, request)
    assert seen == first_cells(section("One prompt"))


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/glossary.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (REPOSITORY / page).read_text("utf-8")
    named = set(re.findall(r"`((?:bd3cli|tests|docs|plugins|examples)/[\w./-]*\w(?:\.\w+)?/?)", text))
    assert named
    assert not [path for path in named if not (REPOSITORY / path).exists()]
