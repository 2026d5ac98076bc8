"""Records: JSON documents with a type, which say what is wrong and lose nothing that they do not know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

import pytest
import torch

from bd3cli.errors import InputError
from bd3cli.files import write_whole
from bd3cli.records import Record, as_plain, optional, parse, read_json


class Choice(TypedDict):
    name: str


class Fuller(Choice, total=False):
    why: str


@dataclass(frozen=True, kw_only=True)
class Inner(Record):
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outer(Record):
    step: int
    share: float = 0.5
    status: Literal["running", "finished"] = "running"
    choice: Fuller | None = optional(None)
    data: dict[str, Inner] = optional({})
    clip: tuple[float, float] | None = None
    names: tuple[str, ...] = optional(())
    scores: list[int | str] = optional([])
    anything: object = optional(None)


WHOLE: dict[str, object] = {
    "later": {"a": 1}, "step": 3, "share": 1, "choice": {"name": "x", "new": 2},
    "data": {"train": {"rows": 7, "fingerprint": "abc"}}, "clip": [0, 0.5], "names": [], "scores": [1, "a"],
    "anything": None,
}  # fmt: skip


def test_a_record_that_was_read_is_written_as_it_was() -> None:
    record = parse(Outer, WHOLE, "f")
    assert (record.step, record.share, record.status, record.clip, record.names) == (3, 1, "running", (0, 0.5), ())
    assert record.data["train"].fingerprint == "abc"
    assert record.choice == {"name": "x", "new": 2}
    assert json.dumps(as_plain(record)) == json.dumps(WHOLE)


def test_a_change_is_written_and_the_rest_stays_in_its_place() -> None:
    record = parse(Outer, WHOLE, "f")
    changed = as_plain(replace(record, step=4, status="finished", names=("b",)))
    assert list(changed) == [*WHOLE, "status"]
    assert changed == {**WHOLE, "step": 4, "status": "finished", "names": ["b"]}


def test_a_new_record_has_all_but_the_optional_keys_in_the_order_of_the_class() -> None:
    assert json.dumps(as_plain(Outer(step=1))) == '{"step": 1, "share": 0.5, "status": "running", "clip": null}'
    full = Outer(step=1, data={"a": Inner()}, choice={"name": "n"})
    assert list(as_plain(full)) == ["step", "share", "status", "choice", "data", "clip"]
    assert as_plain(full)["data"] == {"a": {"fingerprint": None}}


def test_defaults_are_not_shared() -> None:
    Outer(step=1).data["x"] = Inner()
    assert Outer(step=1).data == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "f: step is None, which is not a whole number."),
        ({"step": True}, "f: step is True, which is not a whole number."),
        ({"step": 1.5}, "f: step is 1.5, which is not a whole number."),
        ({"share": "x"}, "f: share is 'x', which is not a number."),
        ({"share": False}, "f: share is False, which is not a number."),
        ({"status": "lost"}, "f: status is 'lost', which is not one of 'running', 'finished'."),
        ({"choice": 3}, "f: choice is 3, which is not an object."),
        ({"choice": {}}, "f: choice.name is missing."),
        ({"choice": {"name": "x", "why": 2}}, "f: choice.why is 2, which is not text."),
        ({"data": {"train": {"fingerprint": 3}}}, "f: data.train.fingerprint is 3, which is not text."),
        ({"data": []}, "f: data is [], which is not an object."),
        ({"clip": [0.5]}, "f: clip is [0.5], which is not 2 values."),
        ({"clip": [0.5, "b"]}, "f: clip[1] is 'b', which is not a number."),
        ({"names": "abc"}, "f: names is 'abc', which is not a list."),
        ({"scores": [1, None]}, "f: scores[1] is None, which is not text."),
        ({"names": ["x" * 99, 1]}, "f: names[1] is 1, which is not text."),
        ({"share": "y" * 99}, f"f: share is '{'y' * 59}..., which is not a number."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change: Mapping[str, object], message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(Outer, {**WHOLE, **change}, "f")
    assert str(refused.value) == message


def test_what_is_missing_and_has_no_default_is_named() -> None:
    with pytest.raises(InputError, match=r"^f: step is missing\.$"):
        parse(Outer, {}, "f")
    for document in ([], "x", None, 3):
        with pytest.raises(InputError, match=r"^f: the document is .*, which is not an object\.$"):
            parse(Outer, document, "f")


def test_tensors_and_other_classes_are_told_apart() -> None:
    x = torch.ones(2)
    assert parse(dict[int, torch.Tensor], {1: x}, "f")[1] is x
    with pytest.raises(InputError, match=r"f: 1 is 3, which is not a Tensor"):
        parse(dict[int, torch.Tensor], {1: 3}, "f")


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, "\xff"])
def test_a_file_that_is_no_json_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match=r"x\.json cannot be read: No such file or directory\."):
        read_json(Outer, path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.json cannot be read: "):
        read_json(Outer, path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    write_whole(path, "old é\n")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text("utf-8") == "old é\n"

    def refuse(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    assert path.read_text("utf-8") == "old é\n"
