"""A whole reproduction at a scale of seconds: what is measured, what is kept, what is reported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bd3cli.reproduce import measures, work
from bd3cli.reproduce.corpora import slices
from bd3cli.reproduce.report import TableResult, markdown
from bd3cli.reproduce.request import Interrupted, Request
from bd3cli.reproduce.runner import reproduce
from bd3cli.reproduce.scales import SCALES, Scale
from bd3cli.reproduce.tables import load_table


def trained(log: Any) -> list[str]:
    return [line for line in log.lines if line.startswith("trained")]


def test_a_table_is_trained_measured_and_reported_once(
    tmp_path: Path, instant: Scale, new_log: Callable[[], Any]
) -> None:
    request = Request((load_table("single-token"),), instant, tmp_path, plots=False, command="bd3cli reproduce run")
    log = new_log()
    (result,) = reproduce(request, log).results
    assert len(trained(log)) == 8  # four rows, two seeds
    assert log.units == pytest.approx(log.total)
    assert {len(cell.raw) for row in result.cells.values() for cell in row.values()} == {2}
    values = {cell.value for row in result.cells.values() for cell in row.values()}
    assert len(values) == 4  # no two rows share a number

    again = new_log()
    (repeated,) = reproduce(request, again).results
    assert not trained(again)
    assert repeated.cells == result.cells
    assert again.units == pytest.approx(again.total)  # what is reused counts as done

    document = json.loads((tmp_path / "single-token.json").read_text())
    assert document["schema"] == 1
    assert markdown(TableResult.from_dict(document)) == (tmp_path / "single-token.md").read_text()
    assert [row["id"] for row in document["rows"]] == ["ar", "ar-random", "l1", "l1-tuned"]
    assert document["rows"][0]["ours"]["ppl"]["by_seed"] == list(result.cells["ar"]["ppl"].raw)
    text = (tmp_path / "single-token.md").read_text()
    assert "slice of the embedded corpus in place of lm1b" in text
    assert "22.88" in text
    assert "<img" not in (tmp_path / "index.html").read_text()


def test_an_interrupted_table_goes_on_where_it_stopped(
    tmp_path: Path, instant: Scale, new_log: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = replace(load_table("single-token"), rows=load_table("single-token").rows[:2], claims=())
    request = Request((table,), instant, tmp_path, plots=False)
    real, calls = work.train, []

    def stop_at_third(*args: object, **kwargs: object) -> object:
        calls.append(args[1])
        if len(calls) == 3:
            raise Interrupted(2)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "train", stop_at_third)
    finished = reproduce(request, new_log())
    assert (finished.signal, finished.results) == (2, ())
    monkeypatch.undo()
    monkeypatch.setenv("BD3CLI_CACHE", str(tmp_path / "cache"))
    log = new_log()
    assert reproduce(request, log).results
    assert len(trained(log)) == 2  # of four


def test_a_variance_is_drawn_anew_for_every_seed(tmp_path: Path, instant: Scale, new_log: Callable[[], Any]) -> None:
    table = load_table("clipped-schedules")
    last = table.rows[-1]
    request = Request((replace(table, rows=(last,), claims=()),), replace(instant, seeds=(0,)), tmp_path, plots=False)
    (result,) = reproduce(request, new_log()).results
    (run,) = (path for path in (tmp_path / "runs").iterdir() if "finetuned" in path.name)
    first, second = (measures.variance(run, seed, work.Work(request, new_log()).context).raw for seed in (0, 1))
    assert first == result.cells[last.id]["var_nelbo"].raw[0]
    assert second != first


def test_text_that_cannot_be_had_is_no_data(tmp_path: Path, instant: Scale, new_log: Callable[[], Any]) -> None:
    scale = replace(instant, name="cpu", seeds=(0,))
    request = Request((load_table("single-token"),), scale, tmp_path, plots=False)
    (result,) = reproduce(request, new_log()).results
    cell = result.cells["ar"]["ppl"]
    assert cell.value is None
    assert "no data" in cell.notes[0]
    assert {outcome.verdict for outcome in result.outcomes} == {"no data"}


def test_other_text_under_the_same_name_is_trained_and_measured_anew(
    tmp_path: Path, instant: Scale, new_log: Callable[[], Any]
) -> None:
    table = load_table("single-token")
    table = replace(table, rows=table.rows[:1], claims=())
    scale = replace(instant, name="cpu", seeds=(0,))
    text = tmp_path / "sentences.txt"
    values = []
    for word in ("alpha", "omega"):
        text.write_text("".join(f"{word} number {i} of many sentences\n" for i in range(400)))
        log = new_log()
        request = Request((table,), scale, tmp_path / "out", data={"lm1b": str(text)}, plots=False)
        (result,) = reproduce(request, log).results
        assert len(trained(log)) == 1
        values.append(result.cells["ar"]["ppl"].value)
    assert values[0] != values[1]


def test_it_goes_on_from_another_working_directory(
    tmp_path: Path, instant: Scale, new_log: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = load_table("single-token")
    scale = replace(instant, seeds=(0,))
    monkeypatch.chdir(tmp_path)
    first = replace(table, rows=table.rows[:1], claims=())
    reproduce(Request((first,), scale, Path("out"), plots=False), new_log())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    log = new_log()
    more = replace(table, rows=table.rows[:2], claims=())
    (result,) = reproduce(Request((more,), replace(scale, sequences=6), Path("../out"), plots=False), log).results
    assert len(trained(log)) == 1  # the second row
    assert result.cells["ar"]["ppl"].value is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scale", "smoke", "--data", "lm1b=."), "--data has no effect at scale smoke"),
        (("--scale", "paper", "--seeds", "2"), "--seeds has no effect at scale paper"),
        (("--scale", "paper", "--out", "x"), "--out has no effect at scale paper"),
        (("--scale", "paper", "--no-plots"), "--no-plots has no effect at scale paper"),
        (("--scale", "tiny"), "There is no scale 'tiny'"),
    ],
)
def test_options_without_effect_are_refused(cli, arguments, message) -> None:  # type: ignore[no-untyped-def]
    outcome = cli("reproduce", "run", "single-token", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_pictures_are_left_out_where_they_cannot_be_drawn_and_refused_before_any_work(
    cli,
    tmp_path: Path,
    instant: Scale,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.setitem(SCALES, "smoke", replace(instant, seeds=(0,)))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = cli("reproduce", "run", "single-token", "--out", tmp_path / "a", "--plots")
    assert outcome.code == 2
    assert "need matplotlib" in outcome.err
    assert not (tmp_path / "a").exists()
    outcome = cli("reproduce", "run", "single-token", "--out", tmp_path / "b", "--jobs", "1")
    assert outcome.code == 0
    assert "no pictures" in outcome.err
    assert (tmp_path / "b" / "index.html").is_file()


def test_slices_of_the_embedded_corpus_do_not_overlap() -> None:
    dealt = slices()
    paragraphs = [text for part in dealt.values() for text in part]
    assert len(paragraphs) == len(set(paragraphs))
    assert all(dealt.values())
