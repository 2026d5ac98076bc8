"""Starting a run from another one's weights."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bd3cli
from bd3cli.errors import InputError
from bd3cli.model import Transformer, TransformerConfig, load_tensors
from bd3cli.model.convert import starting_weights
from bd3cli.model.state import weights_sha256
from bd3cli.recipes.resolve import Resolved, known_keys, resolve, shipped_recipes
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory
from bd3cli.training.finetune import finetune_recipe, load_start
from bd3cli.training.loop import train
from bd3cli.training.reporter import Silent
from bd3cli.training.resume import resume_recipe
from bd3cli.training.trainer import prepare


class StopAt(Silent):
    """Sends this process SIGINT once a step is reached, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def trained_mdlm(tmp_path_factory: pytest.TempPathFactory, quick) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mdlm"
    train(resolve("tiny", overrides=[*quick, "objective.family=mdlm", "train.steps=20"]), folder)
    return folder


def recipe(run: Path, *overrides: str, named: str | None = None, **options):
    return finetune_recipe(run, named, options, overrides, {})


def started(run: Path, *overrides: str, **how):
    """A trainer that has not made a step."""
    trainer = prepare(recipe(run, *overrides).recipe, Silent())
    load_start(run, **how).apply(trainer)
    return trainer


@pytest.mark.parametrize("family", ["bd3lm", "mdlm"])
def test_an_autoregressive_start_is_the_autoregressive_network(make_model, family: str) -> None:
    """Where attention is causal the hidden states are equal, whatever the noise level."""
    ar = make_model("ar")
    config = TransformerConfig(family, 11, 10, 16, 1 if family == "bd3lm" else 16, 32, 2, 2, 8, 0.0)  # type: ignore[arg-type]
    model = Transformer(config, "reference").eval()
    load_tensors(model, starting_weights(ar.state_dict(), ar.config, model), "ar")
    torch.manual_seed(0)
    tokens = torch.randint(0, 10, (3, 16))
    with torch.inference_mode():
        want = ar(tokens)
        if family == "bd3lm":  # block size 1 sees the clean tokens before its own: given the clean one there, causal
            assert (model(tokens, tokens) - want).abs().max() < 1e-5
            assert torch.equal(model.logits(want), ar.logits(want))
        first = ar(tokens[:, :1])  # a context of one token has no order
        assert torch.equal(model(tokens[:, :1]), first)
        for sigma in (0.0, 1.0, 5.0):
            *blocks, head = model.modulation(torch.tensor([sigma]), torch.device("cpu"))
            assert [m.unique().tolist() for m in head] == [[0.0], [0.0]]
            for modulation in blocks:
                assert [m.unique().tolist() for m in modulation] == [[0.0], [0.0], [1.0]] * 2


def test_every_parameter_of_an_autoregressive_start_learns_to_be_modulated(trained_ar: Path) -> None:
    """Zero weights of the modulation receive gradients, so the start is no trap."""
    from bd3cli.training.loop import optimizer_step, step_data

    trainer = started(trained_ar, "objective.block_size=4")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for step in range(2):
        optimizer_step(trainer, step_data(trainer, step))
    still = [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
    assert still == []


def test_an_autoregressive_start_keeps_every_weight_there_was(trained_ar: Path) -> None:
    state, own = started(trained_ar, "objective.block_size=4").model.state_dict(), load_start(trained_ar).tensors
    assert all(torch.equal(state[name], value) for name, value in own.items())
    assert all("adaLN_modulation" in name or "sigma_map" in name for name in state.keys() - own.keys())


@pytest.mark.parametrize("weights", ["averaged", "raw"])
def test_it_starts_from_the_weights_and_the_checkpoint_asked_for(trained_mdlm: Path, weights) -> None:
    trainer = started(trained_mdlm, "objective.block_size=8", weights=weights, checkpoint="last")
    name = CheckpointStore(trained_mdlm / "checkpoints").names()[-1]
    file = {"averaged": "ema.safetensors", "raw": "model.safetensors"}[weights]
    own = load_file(trained_mdlm / "checkpoints" / name / file)
    assert weights_sha256(trainer.model.state_dict()) == weights_sha256(own)
    assert (trainer.step, trainer.recipe.block_size, len(trainer.optimizer.state)) == (0, 8, 0)


def test_the_recipe_is_the_runs_own_but_for_what_is_asked(trained_mdlm: Path, tmp_path: Path) -> None:
    parent = bd3cli.load(str(trained_mdlm)).recipe
    same = recipe(trained_mdlm)
    changed = [k for k, v in same.values().items() if v != recipe_values(parent)[k]]
    assert changed == ["seed"]
    assert same.recipe.seed == parent.seed + 1
    assert same.sources["train.steps"] == f"from {trained_mdlm}"

    child = tmp_path / "child.toml"
    child.write_text("[objective]\nblock_size = 4\nclip = [0.3, 0.8]\n[train]\nsteps = 7\n")
    layered = recipe(
        trained_mdlm, "train.steps=8", named=str(child), **{"objective.schedule": ("cosine", "--schedule")}
    )
    o = layered.recipe.objective
    assert (o.family, o.block_size, o.clip, o.schedule, o.masking) == ("bd3lm", 4, (0.3, 0.8), "cosine", "bernoulli")
    assert layered.recipe.train.steps == 8
    assert layered.recipe.name == "child"
    assert layered.recipe.model == parent.model
    assert layered.sources["objective.family"] == "implied by objective.block_size"
    assert layered.sources["objective.masking"] == "implied by objective.schedule"
    assert layered.sources["objective.clip"] == str(child)


def recipe_values(recipe):
    return Resolved(recipe, {}).values()


def test_counting_masks_drops_the_schedule_that_came_with_the_run(tmp_path: Path, quick) -> None:
    clipped = resolve("tiny", overrides=[*quick, "objective.clip=0.3,0.8", "train.steps=1"])
    train(clipped, tmp_path / "clipped")
    assert clipped.recipe.objective.masking == "bernoulli"
    resolved = recipe(tmp_path / "clipped", "objective.masking=count")
    assert resolved.recipe.objective.clip is None
    assert resolved.sources["objective.clip"] == "default, because of objective.masking"
    prepare(resolved.recipe, Silent())
    both = recipe(tmp_path / "clipped", "objective.masking=count", "objective.clip=0.1,0.9")
    with pytest.raises(InputError, match="has no effect with masking 'count'"):
        prepare(both.recipe, Silent())


def test_a_chain_of_runs_is_recorded_and_survives_resume(trained_ar: Path, tmp_path: Path, cli) -> None:
    quick_end = ("--set", "train.validate_every=3", "--set", "train.checkpoint_every=2", "--json")
    first = cli("finetune", trained_ar, "--block-size", 4, "--steps", 3, "--out", tmp_path / "a", *quick_end)
    assert first.code == 0, first.err
    assert "starting from the averaged weights" in first.err
    second = cli("finetune", tmp_path / "a", "--length", 16, "--steps", 2, "--weights", "raw",
                 "--out", tmp_path / "b", *quick_end)  # fmt: skip
    assert second.json["step"] == 2
    resumed = cli("finetune", "--resume", "--out", tmp_path / "b", "--steps", 4, *quick_end[:-1], "--json")
    assert resumed.json["step"] == 4
    record = RunDirectory(tmp_path / "b").read_record()
    parent = record.parent
    assert (parent["run"], parent["step"], parent["weights"]) == (str(tmp_path / "a"), 3, "raw")
    assert parent["recipe"]["objective.block_size"] == 4
    own = CheckpointStore(tmp_path / "a" / "checkpoints").load(parent["checkpoint"])
    assert parent["weights_sha256"] == weights_sha256(own.weights(average=False))
    assert record.recipe["model.length"] == 16
    assert record.sources["objective.block_size"] == f"from {tmp_path / 'a'}"
    grandparent = parent["parent"]
    assert (grandparent["run"], grandparent["family"], grandparent["weights"]) == (str(trained_ar), "ar", "averaged")
    assert grandparent["parent"] is None


def test_a_finetuned_run_resumes_bit_for_bit(trained_mdlm: Path, tmp_path: Path) -> None:
    changes = ["objective.block_size=4", "train.steps=8", "train.checkpoint_every=3", "train.log_every=1"]
    train(recipe(trained_mdlm, *changes), tmp_path / "whole", start=load_start(trained_mdlm))
    train(recipe(trained_mdlm, *changes), tmp_path / "part", start=load_start(trained_mdlm),
          reporter=StopAt(5))  # fmt: skip
    train(resume_recipe(tmp_path / "part", None, {}, []), tmp_path / "part", resume=True)
    sums = []
    for name in ("whole", "part"):
        last = CheckpointStore(tmp_path / name / "checkpoints").load("last")
        sums.append([weights_sha256(last.weights(average)) for average in (True, False)])
    assert sums[0] == sums[1]


def test_a_kept_optimizer_goes_on_and_a_fresh_one_does_not(trained_mdlm: Path) -> None:
    kept = started(trained_mdlm, "objective.block_size=4", "train.learning_rate=0.001", optimizer=True)
    saved = CheckpointStore(trained_mdlm / "checkpoints").load("best").optimizer()["optimizer"]["state"]
    own = kept.optimizer.state_dict()
    assert own["state"].keys() == saved.keys()
    for key, moments in saved.items():
        assert torch.equal(own["state"][key]["exp_avg_sq"], moments["exp_avg_sq"])
        assert own["state"][key]["step"] == 20
    assert own["param_groups"][0]["initial_lr"] == 0.001
    assert load_start(trained_mdlm, optimizer=True).record["weights"] == "raw"
    assert load_start(trained_mdlm).record["optimizer"] == "fresh"


REFUSED = [
    (["model.hidden_size=128"], {}, "hidden_size 64, the new one 128"),
    (["model.blocks=3"], {}, "blocks 2, the new one 3"),
    (["model.cond_dim=8"], {}, "cond_dim 16, the new one 8"),
    (["data.tokenizer=gpt2-like"], {}, "is not the one"),
    (["objective.family=ar"], {}, "--block-size 1 --schedule full"),
]


@pytest.mark.parametrize(("overrides", "how", "message"), REFUSED)
def test_what_does_not_fit_is_refused(trained_mdlm, monkeypatch, tmp_path, overrides, how, message) -> None:
    if "gpt2-like" in overrides[0]:
        pieces = [bytes([i]) for i in range(256)] + [b"th"]
        file = tmp_path / "other.tiktoken"
        file.write_text("".join(f"{base64.b64encode(p).decode()} {i}\n" for i, p in enumerate(pieces)))
        overrides = [f"data.tokenizer={file}"]
    with pytest.raises(InputError, match=message):
        started(trained_mdlm, *overrides, **how)


def test_other_refusals(trained_ar: Path, trained_mdlm: Path, make_model, tmp_path: Path, cli) -> None:
    with pytest.raises(InputError, match="lacks parameters that 'bd3lm' has"):
        started(trained_ar, "objective.block_size=4", optimizer=True)
    with pytest.raises(InputError, match="no checkpoint 'step-00000099'"):
        load_start(trained_mdlm, checkpoint="step-00000099")
    assert "needs the run to start from" in cli("finetune", "--block-size", 4).err
    assert "must be averaged or raw" in cli("finetune", trained_mdlm, "--weights", "best").err
    assert "leave out RUN" in cli("finetune", trained_mdlm, "--resume", "--out", trained_mdlm).err
    assert "is not a run" in cli("finetune", tmp_path, "--out", tmp_path / "x").err
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    bare = cli("finetune", tmp_path, "--out", tmp_path / "x")
    assert (bare.code, "bd3cli checkpoint import" in bare.err) == (2, True)
    assert not (tmp_path / "x").exists()


def test_autoregressive_continues_and_the_seed_moves_on(trained_ar: Path) -> None:
    trainer = started(trained_ar)
    assert trainer.model.config.family == "ar"
    assert trainer.recipe.seed == 1
    assert set(recipe(trained_ar).sources) == set(known_keys())


def test_shipped_recipes_follow_the_paper(tmp_path: Path) -> None:
    pairs = [(f"{data}-pretrain", f"{data}-finetune-{size}") for data in ("lm1b", "owt") for size in (4, 8, 16)]
    assert {name for pair in pairs for name in pair} <= set(shipped_recipes())
    for parent, child in pairs:
        before, after = resolve(parent, environment={}), resolve(child, environment={})
        assert before.recipe.objective.family == "mdlm"
        assert (
            before.recipe.train.steps + after.recipe.train.steps
            == resolve(parent.replace("pretrain", "ar"), environment={}).recipe.train.steps
        )
        assert (after.recipe.model, after.recipe.data) == (before.recipe.model, before.recipe.data)
        assert after.recipe.objective.clip == ((0.45, 0.95) if child.endswith("-4") else (0.3, 0.8))
