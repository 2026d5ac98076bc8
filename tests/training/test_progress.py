"""What was learned about masks lies apart from the optimizer: evaluation reads it without unpickling anything."""

from __future__ import annotations

import json
import math
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from bd3cli.errors import InputError, RunError
from bd3cli.plain import from_plain, to_plain
from bd3cli.recipes.resolve import resolve
from bd3cli.records import as_plain
from bd3cli.runs.checkpoint import Checkpoint, file_sha256
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.training.loop import train
from bd3cli.training.reporter import Silent
from bd3cli.training.resume import resume_recipe

WINDOW = ["train.steps=60", "train.checkpoint_every=30", "train.validate_every=60", "objective.masking=adaptive"]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, quick: tuple[str, ...]) -> Path:
    """A run whose masking learns: three windows of 20 steps are behind it."""
    folder = tmp_path_factory.mktemp("runs") / "adaptive"
    train(resolve("tiny", overrides=[*quick, *WINDOW]), folder)
    return folder


@pytest.fixture
def copy(learned: Path, tmp_path: Path) -> Path:
    shutil.copytree(learned, tmp_path / "copy")
    return tmp_path / "copy"


def last(run: Path) -> Checkpoint:
    return CheckpointStore(run / "checkpoints").load("last")


def make_old(run: Path) -> None:
    """Every checkpoint as it was before there was a file for progress: inside the optimizer's."""
    store = CheckpointStore(run / "checkpoints")
    for name in store.names():
        checkpoint = store.load(name)
        torch.save(checkpoint.optimizer() | {"progress": checkpoint.progress()}, checkpoint.path / "optimizer.pt")
        (checkpoint.path / "progress.json").unlink()
        del checkpoint.state.sha256["progress.json"]
        forge(checkpoint, "optimizer.pt")


def forge(checkpoint: Checkpoint, name: str) -> None:
    """Make the checksum of a changed file right again."""
    checkpoint.state.sha256[name] = file_sha256(checkpoint.path / name)
    (checkpoint.path / "state.json").write_text(json.dumps(as_plain(checkpoint.state)))


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": [1.5, None, True, "text \ud800"]},
        {1: "x", (2, 3): [()]},
        {"$tensor": 1, "": {}},
        {"one": {"$": 1}},
        [math.inf, -0.0, 5e-324, 2**70],
        torch.tensor([[0.1, math.inf], [5e-324, -0.0]], dtype=torch.float64),
        torch.tensor(3.5, dtype=torch.bfloat16),
        torch.zeros(0, 3, dtype=torch.int32),
        torch.tensor([True, False]),
        torch.arange(6.0).view(2, 3).T,
        OrderedDict(x=torch.ones(2, dtype=torch.int8)),
        torch.Size([2, 3]),
    ],
)  # fmt: skip
def test_tensors_and_plain_values_come_back_as_they_were(value: object) -> None:
    again = from_plain(json.loads(json.dumps(to_plain(value))))
    if isinstance(value, torch.Tensor):
        assert (again.dtype, again.shape) == (value.dtype, value.shape)
        assert torch.equal(again, value)
    elif isinstance(value, OrderedDict):
        assert torch.equal(again["x"], value["x"])
    else:
        assert repr(again) == repr(tuple(value) if isinstance(value, torch.Size) else value)


def test_not_a_number_comes_back() -> None:
    assert math.isnan(from_plain(json.loads(json.dumps(to_plain(math.nan)))))


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", 1j, [lambda: 0]])
def test_anything_else_is_refused_when_it_is_written(value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is neither a tensor nor a plain value.*tensors and plain values only"):
        CheckpointStore(tmp_path).save(1, {"w": torch.ones(1)}, None, {}, {}, {"masking": value})
    assert CheckpointStore(tmp_path).names() == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"$tensor": {"dtype": "save", "shape": [1], "base64": ""}}', '{"$what": 1}',
             '{"a": {"$tensor": {"dtype": "float64", "shape": [5], "base64": "AAAA"}}}', '{"$dict": 3}', "[" * 10**5],
)  # fmt: skip
def test_a_file_that_never_came_from_us_is_refused(text: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"w": torch.ones(1)}, None, {}, {}, {"masked_tokens": 1})
    checkpoint = store.load()
    (checkpoint.path / "progress.json").write_text(text)
    with pytest.raises(InputError, match=r"progress\.json is corrupt"):
        checkpoint.progress()
    forge(checkpoint, "progress.json")
    with pytest.raises(InputError, match=r"progress\.json cannot be read"):
        store.load().progress()


def test_progress_is_a_file_of_its_own_with_a_checksum(learned: Path) -> None:
    checkpoint = last(learned)
    assert set(checkpoint.state.sha256) == {"model.safetensors", "ema.safetensors", "optimizer.pt", "progress.json"}
    assert set(checkpoint.optimizer()) == {"optimizer", "warmup"}
    progress = checkpoint.progress()
    assert progress["masking"]["learner"]["draws"].dtype == torch.float64
    assert sorted(progress["masking"]["windows"]) == [3, 4]  # of 20 steps each: step 60 begins the fourth


def test_evaluation_neither_unpickles_nor_reads_the_optimizer(copy: Path, cli, monkeypatch) -> None:
    options = ("eval", copy, "--sequences", 32, "--variance-batches", 2, "--json")
    whole = cli(*options).json
    (last(copy).path / "optimizer.pt").write_bytes(b"torn")

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr("torch.load", never)
    assert cli(*options).json["var_nelbo"] == whole["var_nelbo"] > 0


def test_progress_of_an_old_checkpoint_is_still_read(copy: Path, learned: Path, cli) -> None:
    make_old(copy)
    found = [cli("eval", r, "--sequences", 32, "--variance-batches", 2, "--json").json for r in (copy, learned)]
    assert found[0]["var_nelbo"] == found[1]["var_nelbo"] > 0


@pytest.mark.parametrize("old", [False, True])
def test_a_run_resumes_from_either_layout_as_if_it_had_not_stopped(copy: Path, learned: Path, old: bool) -> None:
    store = CheckpointStore(copy / "checkpoints")
    shutil.rmtree(store.folder / store.names()[-1])
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    if old:
        make_old(copy)
    train(resume_recipe(copy, None, {}, []), copy, resume=True)
    ours, theirs = last(copy), last(learned)
    assert to_plain(ours.progress()) == to_plain(theirs.progress())
    assert all(torch.equal(ours.weights()[k], v) for k, v in theirs.weights().items())


def test_only_what_is_read_is_verified_and_verify_reads_all(copy: Path, cli) -> None:
    """Averaged weights are used; the raw ones and the optimizer are not."""
    for name in ("optimizer.pt", "model.safetensors"):
        (last(copy).path / name).write_bytes(b"torn")
    assert cli("sample", copy, "--length", 8, "--json").code == 0
    failed = cli("checkpoint", "verify", copy, "--checkpoint", "last")
    assert failed.code == 1
    assert "is corrupt" in failed.out


def test_resume_passes_over_a_checkpoint_whose_progress_is_torn(copy: Path) -> None:
    (last(copy).path / "progress.json").write_text("{}")
    notices: list[str] = []

    class Listen(Silent):
        def notice(self, text: str) -> None:
            notices.append(text)

    train(resume_recipe(copy, None, {}, []), copy, resume=True, reporter=Listen())
    assert any("progress.json is corrupt" in text for text in notices)
    assert last(copy).step == 60


def test_a_full_disk_leaves_no_half_written_progress(tmp_path: Path, monkeypatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"w": torch.ones(1)}, None, {}, {}, {"masked_tokens": 1})
    real = Path.write_text

    def full(self: Path, *args: object, **kwargs: object) -> int:
        if self.name == "progress.json":
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"No space left on device.*step-00000001 is intact"):
        store.save(2, {"w": torch.zeros(1)}, None, {}, {}, {"masked_tokens": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
