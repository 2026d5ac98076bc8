"""The loop, its checkpoints and its record."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import bd3cli
from bd3cli.errors import InputError, RunError
from bd3cli.maskings import MaskNoise
from bd3cli.model.state import weights_sha256
from bd3cli.recipes.resolve import resolve
from bd3cli.recipes.settings import TrainConfig
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory
from bd3cli.training.batches import DataOrder
from bd3cli.training.loop import optimizer_step, step_data, train
from bd3cli.training.optimizer import make_average
from bd3cli.training.reporter import Silent
from bd3cli.training.resume import resume_recipe
from bd3cli.training.trainer import prepare


def final(run: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / CheckpointStore(run / "checkpoints").names()[-1] / name)


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", ["ar", "sedd", "mdlm", "bd3lm"])
def test_training_learns_and_records(tmp_path: Path, quick, family: str) -> None:
    resolved = resolve("tiny", overrides=[*quick, f"objective.family={family}", "train.steps=40"])
    result = train(resolved, tmp_path / "run", argv=["train"])
    assert result.status == "finished"
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert losses[-1] < losses[0] - 1
    record = RunDirectory(tmp_path / "run").read_record()
    assert record.status == "finished"
    assert record.recipe["objective.family"] == family
    assert record.sources["objective.family"] == "--set"
    assert record.versions["torch"] == torch.__version__
    assert len(record.data["train"].fingerprint) == 64
    assert record.attention["reason"]
    assert record.validation["ppl"] == pytest.approx(result.validation.summary()["ppl"])
    assert record.parameters == sum(p.numel() for p in bd3cli.load(str(tmp_path / "run")).model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("model.dropout=0.1", "train.micro_batch_size=4", "train.ema=0"),
        ("objective.masking=adaptive:refresh=3,memory=5", "train.micro_batch_size=8", "train.ema=0"),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path, quick, changes) -> None:
    overrides = [*quick, *changes, "train.checkpoint_every=7", "train.validate_every=5", "train.warmup=1"]
    full = resolve("tiny", overrides=[*overrides, "train.steps=20"])
    train(full, tmp_path / "full")
    # stop after 7 of 20 steps as a kill would: the checkpoint of step 7 is there, metrics go on to step 9
    part = tmp_path / "part"
    train(full, part, reporter=StopAt(9))
    resumed = resume_recipe(part, None, {}, [])
    train(resumed, part, resume=True)
    for name in ("model.safetensors",) + (() if changes else ("ema.safetensors",)):
        assert weights_sha256(final(part, name)) == weights_sha256(final(tmp_path / "full", name))

    def timeless(run: Path) -> list[dict]:
        return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows(run)]

    assert timeless(part) == timeless(tmp_path / "full")


class StopAt(Silent):
    """Sends this process SIGINT once a step is reached, as Ctrl-C does."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.at, self.number, self.sent = step, number, False

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        if step >= self.at and not self.sent:
            self.sent = True
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_leaves(tmp_path: Path, quick, number: int) -> None:
    before = signal.getsignal(number)
    result = train(resolve("tiny", overrides=[*quick, "train.steps=40"]), tmp_path / "r", reporter=StopAt(5, number))
    assert (result.status, result.step, result.signal) == ("interrupted", 5, number)
    assert CheckpointStore(tmp_path / "r" / "checkpoints").names() == ["step-00000005"]
    assert RunDirectory(tmp_path / "r").read_record().status == "interrupted"
    assert signal.getsignal(number) == before


def test_micro_batches_do_not_change_the_update(quick) -> None:
    after = []
    for micro in ("none", "4", "1"):
        trainer = prepare(resolve("tiny", overrides=[*quick, f"train.micro_batch_size={micro}"]).recipe, Silent())
        losses = [optimizer_step(trainer, step_data(trainer, s))[0].item() for s in range(3)]
        after.append((losses, trainer.model.state_dict()))
    for losses, state in after[1:]:
        assert losses == pytest.approx(after[0][0], rel=1e-5)
        for name, value in state.items():
            torch.testing.assert_close(value, after[0][1][name], atol=2e-5, rtol=1e-4)


def test_the_training_loss_estimates_the_nelbo(trained: Path) -> None:
    """Averaged over many draws of masks, loss of `count` and of `bernoulli` equal the exact NELBO a token."""
    run = bd3cli.load(str(trained))
    split = run.split("validation")
    exact = run.evaluate(split, estimator="exact", sequences=16)
    tokens = torch.from_numpy(split.tokens(exact.sequences))
    valid = torch.from_numpy(split.valid(exact.sequences))
    from bd3cli.diffusion.batch import token_nll
    from bd3cli.diffusion.objective import Objective
    from bd3cli.recipes.settings import ObjectiveConfig

    for config in (
        ObjectiveConfig(masking="count"),
        ObjectiveConfig(masking="bernoulli", schedule="square"),
        ObjectiveConfig(masking="bernoulli", schedule="cosine"),
    ):
        objective = Objective.build(config, run.config.mask_id, 4)
        values = []
        with torch.inference_mode():
            for draw in range(150):
                batch = objective.batch(tokens, valid, MaskNoise.draw(16, 32, 4, draw), 0.0)
                values.append((batch.weight * token_nll(run.model, batch)).sum().item() / exact.tokens.sum())
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        assert abs(np.mean(values) - exact.nats_per_token) < 4 * error, config
        assert error < 0.03 * exact.nats_per_token


def test_the_average_is_the_warmed_up_exponential_one() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = make_average(model, 0.5)
    expected = None
    for n in range(6):
        with torch.no_grad():
            model.weight.fill_(float(n * n))
        average.update_parameters(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = 0.0 if expected is None else decay * expected + (1 - decay) * n * n
        assert next(average.module.parameters()).item() == pytest.approx(expected)


def test_data_order_is_a_shuffle_an_epoch_and_a_function_of_the_step() -> None:
    order = DataOrder(total=10, batch_size=4, seed=1)
    seen = [order.indices(step) for step in range(5)]
    flat = [i for batch in seen for i in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert DataOrder(10, 4, 1).indices(3) == seen[3]
    assert DataOrder(10, 4, 2).indices(0) != seen[0]


def test_noise_is_stratified_shuffled_and_independent_of_the_split_into_rows() -> None:
    noise = MaskNoise.draw(8, 16, 4, 7, "mask", 3)
    assert torch.equal((noise.time.flatten() * 32).long().sort().values, torch.arange(32))
    assert not torch.equal((noise.time.flatten() * 32).long(), torch.arange(32))
    assert torch.equal(noise.rows(2, 5).position, noise.position[2:5])
    assert torch.equal(MaskNoise.draw(8, 16, 4, 7, "mask", 3).position, noise.position)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("family", ["ar", "sedd", "bd3lm"])
def test_a_compiled_network_trains_alike(tmp_path: Path, quick, family: str) -> None:
    losses = []
    for compiled in ("true", "false"):
        settings = [*quick, "train.steps=6", f"train.compile={compiled}", f"objective.family={family}"]
        train(resolve("tiny", overrides=[*settings, "train.log_every=1"]), tmp_path / compiled)
        losses.append([row["loss"] for row in rows(tmp_path / compiled) if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_used_directory_is_not_reused(tmp_path: Path, quick) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(InputError, match="already exists and is not empty"):
        train(resolve("tiny", overrides=list(quick)), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious.txt"]


def test_a_diverged_run_stops_with_a_diagnosis_and_keeps_its_checkpoint(tmp_path: Path, quick) -> None:
    overrides = [*quick, "train.steps=60", "train.learning_rate=10", "train.gradient_clip=0", "train.warmup=0"]
    resolved = resolve("tiny", overrides=[*overrides, "train.checkpoint_every=1", "train.log_every=1"])

    class Poison(Silent):
        def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
            if step == 3:
                monkey.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: torch.tensor(float("nan")))

    monkey = pytest.MonkeyPatch()
    try:
        with pytest.raises(RunError, match=r"at step 4 \(schedule loglinear.*sequences \d+, .*lower train.learning"):
            train(resolved, tmp_path / "run", reporter=Poison())
    finally:
        monkey.undo()
    assert CheckpointStore(tmp_path / "run" / "checkpoints").load("last").step == 3
    assert RunDirectory(tmp_path / "run").read_record().status == "failed"


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("file", ["ema.safetensors", "model.safetensors", "optimizer.pt", "progress.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_refused_by_name(copy: Path, file: str, damage: str) -> None:
    folder = next((copy / "checkpoints").glob("step-*"))
    data = bytearray((folder / file).read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        (folder / file).write_bytes(data)
    elif damage == "truncate":
        (folder / file).write_bytes(data[:-7])
    else:
        (folder / file).unlink()
    with pytest.raises(InputError, match=rf"{file} (is corrupt|cannot be read)"):
        CheckpointStore(copy / "checkpoints").load("last").verify()
    if file == "ema.safetensors":  # the only one that is read
        with pytest.raises(InputError, match=rf"{file} (is corrupt|cannot be read)"):
            bd3cli.load(str(copy))
    else:
        bd3cli.load(str(copy))


def test_resume_falls_back_to_the_last_good_checkpoint(tmp_path: Path, quick) -> None:
    overrides = [*quick, "train.steps=20", "train.checkpoint_every=5", "train.validate_every=20"]
    train(resolve("tiny", overrides=overrides), tmp_path / "run")
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    before = weights_sha256(final(tmp_path / "run"))
    newest = store.folder / store.names()[-1]
    (newest / "model.safetensors").write_bytes(b"torn")
    notices: list[str] = []

    class Listen(Silent):
        def notice(self, text: str) -> None:
            notices.append(text)

    train(resume_recipe(tmp_path / "run", None, {}, []), tmp_path / "run", resume=True, reporter=Listen())
    assert any("corrupt" in text for text in notices)
    assert weights_sha256(final(tmp_path / "run")) == before


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 6):
        validation = {"ppl": 2.0**step, "nats_per_token": float(step)}
        name = store.save(step, {"w": torch.ones(1)}, None, {}, {"validation": validation})
        if step == 1:
            store.mark_best(name, 1.0)
    assert store.names() == ["step-00000001", "step-00000004", "step-00000005"]
    assert store.load("best").step == 1
    assert store.load("last").step == 5
    with pytest.raises(InputError, match="There are: step-00000001"):
        store.load("step-00000002")


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"w": torch.ones(1)}, None, {}, {})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bd3cli.runs.checkpoints.torch.save", full)
    with pytest.raises(RunError, match=r"No space left on device.*step-00000001 is intact"):
        store.save(2, {"w": torch.zeros(1)}, None, {}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert store.load("last").step == 1


def test_resuming_may_not_change_what_is_trained(copy: Path) -> None:
    assert resume_recipe(copy, None, {"train.steps": (999, "--steps")}, []).recipe.train.steps == 999
    with pytest.raises(InputError, match=r"objective.block_size \(4 -> 8\)"):
        resume_recipe(copy, None, {"objective.block_size": (8, "--block-size")}, [])
    with pytest.raises(InputError, match=r"is finished: it has trained 150 of 150 steps\. Raise --steps"):
        train(resume_recipe(copy, None, {}, []), copy, resume=True)
    with pytest.raises(InputError, match="leave out 'tiny'"):
        resume_recipe(copy, "tiny", {}, [])
    with pytest.raises(InputError, match="add --out"):
        resume_recipe(None, None, {}, [])


def test_train_config_defaults_are_the_papers() -> None:
    t = TrainConfig()
    assert (t.learning_rate, t.beta1, t.beta2, t.weight_decay) == (3e-4, 0.9, 0.999, 0.0)
    assert (t.gradient_clip, t.warmup, t.ema) == (1.0, 2500, 0.9999)
