"""The records of a run: kept whole when they are rewritten, read from any version, refused by name when damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bd3cli.errors import InputError
from bd3cli.records import as_plain
from bd3cli.runs.checkpoint import file_sha256
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory
from bd3cli.runs.records import CheckpointState, RunRecord, StepRow, ValidationRow
from bd3cli.training.loop import last_streams


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def changed(run: Path, **changes: object) -> None:
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes))


def test_a_record_is_rewritten_byte_for_byte(run: Path) -> None:
    before = (run / "run.json").read_bytes()
    RunDirectory(run).update_record(status=json.loads(before)["status"])
    assert (run / "run.json").read_bytes() == before


def test_a_change_leaves_the_order_and_the_keys_of_a_newer_version(run: Path) -> None:
    changed(run, later={"x": [1, None]})
    document = json.loads((run / "run.json").read_text("utf-8"))
    document["data"]["train"]["newer"] = 1
    (run / "run.json").write_text(json.dumps(document))
    RunDirectory(run).update_record(status="running", validation=None, resumes=({"step": 3},))
    after = json.loads((run / "run.json").read_text("utf-8"))
    assert list(after) == [*document, "resumes"]
    assert after == {**document, "status": "running", "validation": None, "resumes": [{"step": 3}]}


def test_a_field_that_there_is_not_is_no_change(run: Path) -> None:
    with pytest.raises(TypeError, match="statsu"):
        RunDirectory(run).update_record(statsu="finished")


def test_metrics_and_states_are_their_documents(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    rows = RunDirectory(run).metrics()
    assert [json.dumps(as_plain(row)) for row in rows] == lines
    fresh = [type(row)(**{k: v for k, v in vars(row).items() if k != "document"}) for row in rows]
    assert [json.dumps(as_plain(row)) for row in fresh] == lines
    assert {type(row) for row in rows} == {StepRow, ValidationRow}
    last = CheckpointStore(run / "checkpoints").load("last")
    known = CheckpointState(step=last.step, sha256=last.state.sha256, validation=last.state.validation)
    assert json.dumps(as_plain(known), indent=1) + "\n" == (last.path / "state.json").read_text("utf-8")


def test_a_record_of_an_older_version_is_read(run: Path, cli) -> None:
    """What came late: the streams' version, the horizon, progress, what entropy ends samples, plugins in use."""
    document = json.loads((run / "run.json").read_text("utf-8"))
    late = ("stream_version", "horizon", "warmup_steps", "progress", "entropy_stop", "uses", "memory_estimate",
            "processes", "machine", "git", "plugins")  # fmt: skip
    (run / "run.json").write_text(json.dumps({k: v for k, v in document.items() if k not in late}))
    record = RunDirectory(run).read_record()
    assert (last_streams(record), record.horizon, record.progress, record.uses) == (1, None, None, {})
    assert cli("runs", "show", run).code == 0
    RunDirectory(run).update_record(step=3)
    assert set(json.loads((run / "run.json").read_text("utf-8"))) == set(document) - set(late) | {"step"}


def test_an_empty_record_is_one() -> None:
    assert RunRecord().status is None
    assert last_streams(RunRecord(resumes=({"step": 1}, {"step": 2, "stream_version": 2}))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"train": {"fingerprint": 3}}}, "run.json: data.train.fingerprint is 3, which is not text."),
        ({"tokenizer": "bytes"}, "run.json: tokenizer is 'bytes', which is not an object."),
        ({"resumes": {"step": 1}}, "run.json: resumes is {'step': 1}, which is not a list."),
        ({"recipe": None}, "run.json: recipe is None, which is not an object."),
        ({"status": 1}, "run.json: status is 1, which is not text."),
        ({"parent": {"run": "x"}}, "run.json: parent.block_size is missing."),
        ({"argv": "train"}, "run.json: argv is 'train', which is not a list."),
        ({"uses": {"schedule": "cosine"}}, "run.json: uses.schedule is 'cosine', which is not an object."),
        ({"uses": {"schedule": {"name": "x"}}}, "run.json: uses.schedule.distribution is missing. Mend the file,"),
        ({"entropy_stop": {"rule": "x"}}, "run.json: entropy_stop.threshold is missing."),
        ({"parameters": 1.5}, "run.json: parameters is 1.5, which is not a whole number."),
    ],
)
def test_a_damaged_record_gets_one_message(run: Path, cli, change: dict[str, object], message: str) -> None:
    changed(run, **change)
    for command in (("eval", run), ("runs", "show", run), ("train", "--resume", "--out", run)):
        outcome = cli(*command)
        assert (outcome.code, message in outcome.err, "defect" in outcome.err) == (2, True, False), outcome.err


def test_a_row_of_metrics_with_a_wrong_value_is_named_and_half_a_line_is_dropped(run: Path, cli) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_text("utf-8")
    path.write_text(whole + '{"step": 41, "lo')
    assert len(RunDirectory(run).metrics()) == len(whole.splitlines())
    path.write_text('{"step": 1, "validation": {"nats_per_token": "x", "ppl": 2}}\n' + whole)
    shown = cli("runs", "show", run)
    message = "metrics.jsonl, line 1: validation.nats_per_token is 'x', which is not a number."
    assert (shown.code, message in shown.err) == (2, True), shown.err
    path.unlink()
    assert RunDirectory(run).metrics() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "state.json: sha256 is missing."),
        ('{"step": "3", "sha256": {}}', "state.json: step is '3', which is not a whole number."),
        ('{"step": 3, "sha256": []}', "state.json: sha256 is [], which is not an object."),
        ('{"step": 3, "sha256": {}, "validation": {"ppl": 1}}', "state.json: validation.nats_per_token is missing."),
    ],
)
def test_a_damaged_state_of_a_checkpoint_is_named(run: Path, text: str, message: str) -> None:
    store = CheckpointStore(run / "checkpoints")
    (store.folder / store.names()[-1] / "state.json").write_text(text)
    with pytest.raises(InputError) as refused:
        store.load("last")
    assert message in str(refused.value)
    assert "Use another checkpoint." in str(refused.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"checkpoint": 3}', '{"checkpoint": "x", "nats_per_token": "y"}', "{"])
def test_a_damaged_mark_of_the_best_counts_as_none(run: Path, text: str) -> None:
    store = CheckpointStore(run / "checkpoints")
    (store.folder / "best.json").write_text(text)
    assert (store.best(), store.best_nats()) == (None, float("inf"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("warmup"), "optimizer.pt: warmup is missing."),
        (lambda s: s["optimizer"].pop("state"), "optimizer.pt: optimizer.state is missing."),
        (lambda s: s["optimizer"]["state"][0].pop("exp_avg"), "optimizer.pt: optimizer.state.0.exp_avg is missing."),
        (lambda s: s["optimizer"]["state"][0].update(step=3), "optimizer.state.0.step is 3, which is not a Tensor."),
        (lambda s: s["warmup"].update(last_epoch="x"), "warmup.last_epoch is 'x', which is not a whole number."),
        (lambda s: s["optimizer"].update(param_groups=[]), "belongs to another network"),
        (lambda s: s["optimizer"]["state"].pop(0), "belongs to another network"),
        (lambda s: s["optimizer"]["state"][0].update(step=torch.tensor(-1.0)), "belongs to another network"),
        (lambda s: s["optimizer"]["state"][0].update(step=torch.tensor(1j)), "belongs to another network"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)), "belongs to another network"),
    ],
)
def test_an_optimizer_state_that_is_none_is_named(run: Path, cli, damage, message: str) -> None:
    folder = CheckpointStore(run / "checkpoints").load("last").path
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    damage(state)
    torch.save(state, folder / "optimizer.pt")
    forge(folder, "optimizer.pt")
    changed(run, status="interrupted")
    outcome = cli("train", "--resume", "--out", run)
    assert (outcome.code, message in outcome.err, "defect" in outcome.err) == (2, True, False), outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "masked_tokens is missing."),
        ("[]", "the document is [], which is not an object."),
        ('{"masked_tokens": "1"}', "masked_tokens is '1', which is not a whole number."),
        ('{"masked_tokens": 1, "masking": {"learner": {}}}', "masking.windows is missing."),
        ('{"masked_tokens": 1, "clip_search": [{"step": 1}]}', "clip_search[0].clip is missing."),
    ],
)
def test_progress_that_is_none_is_named(run: Path, text: str, message: str) -> None:
    checkpoint = CheckpointStore(run / "checkpoints").load("last")
    (checkpoint.path / "progress.json").write_text(text)
    forge(checkpoint.path, "progress.json")
    with pytest.raises(InputError) as refused:
        CheckpointStore(run / "checkpoints").load("last").progress()
    assert "progress.json cannot be read: " + message in str(refused.value)


def forge(folder: Path, name: str) -> None:
    """Make the checksum of a changed file right again."""
    path = folder / "state.json"
    state = json.loads(path.read_text("utf-8"))
    state["sha256"][name] = file_sha256(folder / name)
    path.write_text(json.dumps(state))
