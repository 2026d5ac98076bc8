"""Checkpoints in and out: published layout, Lightning files, and whether they are whole."""

from __future__ import annotations

import collections
import json
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bd3cli
from bd3cli.errors import InputError
from bd3cli.exchange.importing import download, import_checkpoint
from bd3cli.exchange.inspection import verify
from bd3cli.model import Transformer
from bd3cli.model.state import count_parameters, weights_sha256
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RunDirectory

FAMILIES = ["ar", "sedd", "mdlm", "bd3lm"]


def describe(model: Transformer, **changes) -> dict:
    """A published config.json."""
    c = model.config
    config = {
        "model_type": c.family, "block_size": c.block_size, "cond_dim": c.cond_dim, "hidden_dim": c.hidden_size,
        "model_length": c.length, "n_blocks": c.blocks, "n_heads": c.heads, "dropout": 0.1,
        "vocab_size": c.vocab_size, "time_conditioning": c.time_conditioning, "cross_attn": True, "var_min": True,
    } | changes  # fmt: skip
    return {k: v for k, v in config.items() if v is not None}


def published(model: Transformer) -> dict[str, torch.Tensor]:
    own = {f"backbone.{name}": value.clone().contiguous() for name, value in model.state_dict().items()}
    return own | {"sampling_eps_min": torch.tensor(0.3), "sampling_eps_max": torch.tensor(0.8)}


def write(folder: Path, tensors: dict[str, torch.Tensor], config: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def small(make_model, family: str = "bd3lm", vocab: int = 259) -> Transformer:
    return make_model(family, vocab=vocab, time_conditioning=family == "sedd")


def same(a: Path, b: Path) -> bool:
    one, two = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype and one[k].shape == two[k].shape
        and one[k].numpy().tobytes() == two[k].numpy().tobytes()
        for k in one
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_layout_goes_in_and_out_unchanged(make_model, tmp_path: Path, cli, family: str) -> None:
    model = small(make_model, family)
    source = write(tmp_path / "source", published(model), describe(model, custom_field=[1, 2]))
    shown = cli("checkpoint", "import", source, "--out", tmp_path / "run", "--json")
    assert shown.code == 0, shown.err
    assert "assuming the tokenizer bytes" in shown.err
    assert shown.json["family"] == family
    assert shown.json["parameters"] == sum(p.numel() for p in model.parameters())
    assert shown.json["weights_sha256"] == weights_sha256(model.state_dict())
    assert cli("checkpoint", "show", source, "--json").json["weights_sha256"] == shown.json["weights_sha256"]
    assert cli("checkpoint", "export", tmp_path / "run", "--out", tmp_path / "out").code == 0
    assert same(source, tmp_path / "out")
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text()).items()
        >= json.loads((source / "config.json").read_text()).items()
    )
    run = bd3cli.load(str(tmp_path / "run"), attention="reference")
    assert run.config.family == family
    assert run.recipe.data.tokenizer == "bytes"
    if family != "ar":
        assert run.recipe.objective.clip == pytest.approx((0.3, 0.8))


@pytest.mark.parametrize("golden", ["bd3lm-b4", "ar", "sedd"])
def test_golden_directories_go_in_and_out_unchanged(shared_data: Path, tmp_path: Path, golden: str) -> None:
    from bd3cli.exchange.inspection import export

    source = shared_data / "golden" / golden
    run, notices = import_checkpoint(str(source), tmp_path / "run")
    assert "ids:300" in notices[0]
    assert all(check.ok for check in verify(run.path))
    export(run.path, tmp_path / "out")
    assert same(source, tmp_path / "out")
    assert json.loads((source / "config.json").read_text()) == json.loads((tmp_path / "out/config.json").read_text())


def test_an_imported_checkpoint_is_evaluated_sampled_from_and_finetuned(make_model, tmp_path: Path, cli) -> None:
    model = small(make_model)
    source = write(tmp_path / "source", published(model), describe(model))
    assert cli("checkpoint", "import", source, "--out", tmp_path / "run", "--data", "pydocs").code == 0
    evaluated = cli("eval", tmp_path / "run", "--sequences", 4, "--json").json
    assert (evaluated["family"], evaluated["block_size"], evaluated["sequences"]) == ("bd3lm", 4, 4)
    assert len(cli("sample", tmp_path / "run", "--json").json["samples"][0]["tokens"]) == 16
    tuned = cli("finetune", tmp_path / "run", "--block-size", 8, "--steps", 2, "--out", tmp_path / "tuned",
                "--set", "train.batch_size=4", "--set", "train.validate_sequences=4", "--json")  # fmt: skip
    assert tuned.code == 0, tuned.err
    parent = RunDirectory(tmp_path / "tuned").read_record().parent
    assert parent["imported"]["source"] == str(source)
    assert parent["weights_sha256"] == weights_sha256(model.state_dict())
    shown = cli("checkpoint", "show", tmp_path / "tuned", "--json").json
    assert [p["run"] for p in shown["chain"]] == [str(tmp_path / "run")]
    resumed = cli("train", "--resume", "--out", tmp_path / "run")
    assert (resumed.code, "bd3cli finetune" in resumed.err) == (2, True)
    with pytest.raises(InputError, match="no optimizer state"):
        CheckpointStore(tmp_path / "run" / "checkpoints").load().optimizer()


def fsdp(name: str) -> str:
    """As FSDP names the tensors of a network of which it wraps the blocks too."""
    block = re.sub(r"^(blocks\.\d+)\.", r"\1._fsdp_wrapped_module.", name)
    return f"_fsdp_wrapped_module.backbone._fsdp_wrapped_module.{block}"


WRAPPINGS = {
    "bare": "{}", "module": "module.{}", "DDP": "module.backbone.{}", "compiled": "_orig_mod.backbone.{}",
    "compiled inside": "backbone._orig_mod.{}", "both": "module._orig_mod.backbone.{}",
    "both inside": "backbone.module._orig_mod.{}", "model": "model.{}", "model of a model": "model.model.backbone.{}",
    "Fabric": "_forward_module.module.backbone.{}", "checkpointing": "backbone._checkpoint_wrapped_module.{}",
}  # fmt: skip
NAMED = {title: pattern.format for title, pattern in WRAPPINGS.items()} | {"FSDP": fsdp}


@pytest.mark.parametrize("wrapping", NAMED)
def test_wrappings_are_taken_off_names_in_either_format(make_model, tmp_path: Path, cli, omega, wrapping: str) -> None:
    model, named = small(make_model), NAMED[wrapping]
    state = {named(name): value.clone().contiguous() for name, value in model.state_dict().items()}
    clip = {named(name).replace("backbone.", ""): value for name, value in published(model).items() if "eps" in name}
    folder = write(tmp_path / "folder", state | clip, describe(model))
    file = lightning(tmp_path / "last.ckpt", model, omega(SETTINGS), state_dict=state)
    for source in (folder, file):
        out = tmp_path / f"run-{source.name}"
        done = cli("checkpoint", "import", source, "--out", out, "--json")
        assert done.code == 0, done.err
        assert cli("checkpoint", "show", out, "--json").json["raw_weights_sha256"] == weights_sha256(model.state_dict())
    assert bd3cli.load(str(tmp_path / "run-folder")).recipe.objective.clip == pytest.approx((0.3, 0.8))
    average = bd3cli.load(str(tmp_path / "run-last.ckpt")).model.state_dict()
    assert torch.equal(average["vocab_embed.embedding"], model.vocab_embed.embedding * 2)
    assert weights_sha256(bd3cli.load(str(folder)).model.state_dict()) == weights_sha256(model.state_dict())
    assert cli("checkpoint", "verify", folder).code == 0


def test_two_tensors_of_one_name_are_refused_in_either_format(make_model, tmp_path: Path, cli, omega) -> None:
    model = small(make_model)
    state = published(model) | {"model.output_layer.linear.bias": torch.zeros(259)}
    folder = write(tmp_path / "folder", state, describe(model))
    file = lightning(tmp_path / "last.ckpt", model, omega(SETTINGS), state_dict=state)
    for source in (folder, file):
        refused = cli("checkpoint", "import", source, "--out", tmp_path / "run")
        assert refused.code == 2
        assert "two tensors for backbone.output_layer.linear.bias" in refused.err
        assert "model.output_layer.linear.bias" in refused.err


def broken(tensors: dict, kind: str) -> dict:
    tensors = dict(tensors)
    if kind == "missing":
        del tensors["backbone.blocks.0.norm1.weight"]
    elif kind == "extra":
        tensors["backbone.blocks.0.extra"] = torch.zeros(1)
    elif kind == "stray":
        tensors["something.else"] = torch.zeros(1)
    elif kind == "shape":
        tensors["backbone.vocab_embed.embedding"] = torch.zeros(3, 32)
    elif kind == "nan":
        tensors["backbone.output_layer.linear.bias"][1] = torch.nan
    elif kind == "integers":
        tensors["backbone.output_layer.linear.bias"] = torch.zeros(259, dtype=torch.int64)
    return tensors


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "missing: blocks.0.norm1.weight"),
        ("extra", "unexpected: blocks.0.extra"),
        ("stray", "unexpected: something.else"),
        ("shape", "vocab_embed.embedding is [3, 32] instead of [259, 32]"),
        ("nan", "not finite, in backbone.output_layer.linear.bias"),
        ("integers", "no weights: backbone.output_layer.linear.bias (torch.int64)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make_model, tmp_path: Path, cli, kind: str, message: str) -> None:
    model = small(make_model)
    source = write(tmp_path / "source", broken(published(model), kind), describe(model))
    refused = cli("checkpoint", "import", source, "--out", tmp_path / "run")
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.err
    assert "Traceback" not in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_blocks": 10**9}, "n_blocks is 1000000000; it must be a whole number from 1 to 1024"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"n_heads": "many"}, "wrong type"),
        ({"vocab_size": None}, "lacks 'vocab_size'"),
        ({"block_size": 5}, "does not divide the length 16"),
        ({"hidden_dim": 65536}, "wrong shape"),
        ({"model_type": "gpt"}, "model_type 'gpt' is none of"),
        ({"block_size": None}, "Add --block-size"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(make_model, tmp_path: Path, cli, changes, message) -> None:
    model = small(make_model)
    source = write(tmp_path / "source", published(model), describe(model, **changes))
    refused = cli("checkpoint", "import", source, "--out", tmp_path / "run")
    assert (refused.code, message in refused.err) == (2, True), refused.err


def test_other_tokenizers(make_model, tmp_path: Path, cli) -> None:
    model = small(make_model)
    source = write(tmp_path / "source", published(model), describe(model))
    wrong = cli("checkpoint", "import", source, "--out", tmp_path / "run", "--tokenizer", "ids:300")
    assert (wrong.code, "259 token ids" in wrong.err, "--tokenizer ids:258" in wrong.err) == (2, True, True)
    assert cli("checkpoint", "import", source, "--out", tmp_path / "run", "--tokenizer", "ids:258").code == 0
    again = cli("checkpoint", "import", source, "--out", tmp_path / "run")
    assert (again.code, "not empty" in again.err) == (2, True)


def test_half_precision_is_widened_with_a_notice(make_model, tmp_path: Path, cli) -> None:
    model = small(make_model)
    halves = {name: value.bfloat16() for name, value in published(model).items()}
    source = write(tmp_path / "source", halves, describe(model))
    imported = cli("checkpoint", "import", source, "--out", tmp_path / "run")
    assert "torch.bfloat16 are kept as torch.float32" in imported.err
    state = bd3cli.load(str(tmp_path / "run")).model.state_dict()
    assert all(torch.equal(state[n], halves[f"backbone.{n}"].float()) for n in state)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_hub_out_of_reach(offline, tmp_path: Path, cli) -> None:
    refused = cli("checkpoint", "import", "kuleshov-group/bd3lm-owt-block_size4", "--out", tmp_path / "run")
    assert refused.code == 2
    assert "the hub cannot be reached" in refused.err
    assert "download its config.json and model.safetensors" in refused.err
    for name in ("nowhere", "a/b/c", "./x/y"):
        with pytest.raises(InputError, match="no file or directory"):
            download(name)
    empty = cli("checkpoint", "import", tmp_path, "--out", tmp_path / "run")
    assert "needs config.json and model.safetensors" in empty.err


# --- Lightning ---------------------------------------------------------------------------------------------------


@pytest.fixture
def omega(monkeypatch: pytest.MonkeyPatch):
    """A function that makes an object which pickles as an OmegaConf configuration does."""
    module = types.ModuleType("omegaconf.dictconfig")

    def cls(name: str) -> type:
        made = type(name, (), {"__module__": "omegaconf.dictconfig"})
        setattr(module, name, made)
        return made

    container, node = cls("DictConfig"), cls("AnyNode")
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)

    def make(value):
        made = container() if isinstance(value, dict) else node()
        content = {k: make(v) for k, v in value.items()} if isinstance(value, dict) else value
        made.__dict__.update({"_metadata": None, "_parent": None})
        made.__dict__["_content" if isinstance(value, dict) else "_val"] = content
        return made

    return make


SETTINGS = {
    "block_size": 4,
    "algo": {"name": "bd3lm", "parameterization": "subs", "time_conditioning": False},
    "model": {"length": 16, "hidden_size": 32, "dropout": 0.1},
}


def lightning(path: Path, model: Transformer, config=None, average: bool = True, zipped: bool = True, **more) -> Path:
    """A checkpoint as the paper's code writes one, after torch.compile."""
    state = collections.OrderedDict(
        (f"backbone._orig_mod.{name}", value.clone()) for name, value in model.state_dict().items()
    )
    shadow = [p.detach() * 2 for p in model.parameters()]
    content = {
        "epoch": 3, "global_step": 1200, "pytorch-lightning_version": "2.2.1", "state_dict": state, "loops": {},
        "hyper_parameters": {} if config is None else {"config": config, "tokenizer": config},
    } | ({"ema": {"decay": 0.9999, "num_updates": 5, "shadow_params": shadow, "collected_params": []}}
         if average else {}) | more  # fmt: skip
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_lightning_checkpoint_has_its_average_applied(make_model, tmp_path: Path, cli, omega, zipped: bool) -> None:
    model = small(make_model)
    file = lightning(tmp_path / "last.ckpt", model, omega(SETTINGS), zipped=zipped)
    shown = cli("checkpoint", "import", file, "--out", tmp_path / "run", "--json")
    assert shown.code == 0, shown.err
    document = shown.json
    assert (document["step"], document["family"], document["block_size"]) == (1200, "bd3lm", 4)
    assert (document["length"], document["heads"], document["weights"]) == (16, 2, "averaged")
    state = bd3cli.load(str(tmp_path / "run")).model.state_dict()
    buffers = {"rotary_emb.inv_freq"}
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value if name in buffers else value * 2), name
    assert document["raw_weights_sha256"] == weights_sha256(model.state_dict())
    assert document["parameters"] == count_parameters(model.state_dict())
    assert document["imported"]["format"] == "lightning"
    cli("checkpoint", "export", tmp_path / "run", "--out", tmp_path / "raw", "--weights", "raw")
    exported = load_file(tmp_path / "raw" / "model.safetensors")
    assert torch.equal(exported["backbone.vocab_embed.embedding"], model.vocab_embed.embedding)
    assert bd3cli.load(str(tmp_path / "raw")).config.block_size == 4


def test_what_a_lightning_checkpoint_does_not_say_must_be_said(make_model, tmp_path: Path, cli) -> None:
    file = lightning(tmp_path / "last.ckpt", small(make_model, "mdlm"), average=False)
    silent = cli("checkpoint", "import", file, "--out", tmp_path / "run")
    assert (silent.code, "Add --family and --length" in silent.err) == (2, True)
    told = cli("checkpoint", "import", file, "--out", tmp_path / "run", "--family", "mdlm", "--length", 16, "--json")
    assert (told.json["family"], told.json["weights"]) == ("mdlm", "raw")


def test_averages_that_do_not_fit_are_refused(make_model, tmp_path: Path, cli, omega) -> None:
    model, config = small(make_model), omega(SETTINGS)
    count = len(list(model.parameters()))
    for shadow, message in (
        ([torch.zeros(1)] * (count - 1), f"has {count - 1} tensors for {count} parameters"),
        ([torch.zeros(1)] * count, "the average of backbone.vocab_embed.embedding is [1] instead of [259, 32]"),
        ("text", "is not a list of tensors"),
    ):
        file = lightning(tmp_path / "last.ckpt", model, config, ema={"shadow_params": shadow})
        refused = cli("checkpoint", "import", file, "--out", tmp_path / "run")
        assert (refused.code, message in refused.err) == (2, True), refused.err
    torch.save({"weights": 1}, tmp_path / "other.pt")
    refused = cli("checkpoint", "import", tmp_path / "other.pt", "--out", tmp_path / "run")
    assert "it has no 'state_dict' (it holds: weights)" in refused.err
    torch.save({"state_dict": {"a": 1}}, tmp_path / "other.pt")
    assert "no tensor: a" in cli("checkpoint", "import", tmp_path / "other.pt", "--out", tmp_path / "run").err
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "other.pt")
    assert "not of this architecture" in cli("checkpoint", "import", tmp_path / "other.pt", "--out", tmp_path / "r").err


def test_a_bomb_in_a_lightning_checkpoint_does_not_go_off(make_model, tmp_path: Path, cli) -> None:
    import os

    proof = tmp_path / "proof"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {proof}",)

    file = lightning(tmp_path / "last.ckpt", small(make_model), {"config": Bomb()}, callbacks={"Timer": Bomb()})
    done = cli("checkpoint", "import", file, "--out", tmp_path / "run", "--family", "bd3lm", "--length", 16,
               "--block-size", 4)  # fmt: skip
    assert done.code == 0, done.err
    assert not proof.exists()


# --- verify ------------------------------------------------------------------------------------------------------


def test_a_run_verifies_and_repeats_its_validation(trained_ar: Path, cli) -> None:
    done = cli("checkpoint", "verify", trained_ar, "--perplexity", "--json")
    checks = {c["check"]: c for c in done.json["checks"]}
    assert (done.code, done.json["ok"]) == (0, True)
    assert checks["perplexity"]["ok"]
    assert {"files", "averaged names", "raw shapes", "raw values", "parameters"} <= checks.keys()


def test_verify_names_what_is_wrong(make_model, trained_ar: Path, tmp_path: Path, cli) -> None:
    shutil.copytree(trained_ar, tmp_path / "run")
    record = RunDirectory(tmp_path / "run").read_record()
    RunDirectory(tmp_path / "run").update_record(parameters=record.parameters + 1)
    failed = cli("checkpoint", "verify", tmp_path / "run", "--json")
    assert failed.code == 1
    assert [c["check"] for c in failed.json["checks"] if not c["ok"]] == ["parameters"]
    file = next((tmp_path / "run" / "checkpoints").glob("*/ema.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    failed = cli("checkpoint", "verify", tmp_path / "run")
    assert (failed.code, "is corrupt" in failed.out) == (1, True)
    model = small(make_model)
    for kind, check in (("missing", "raw names"), ("shape", "raw shapes"), ("nan", "raw values"),
                        ("integers", "raw types")):  # fmt: skip
        folder = write(tmp_path / kind, broken(published(model), kind), describe(model))
        found = cli("checkpoint", "verify", folder, "--json")
        assert check in [c["check"] for c in found.json["checks"] if not c["ok"]], kind
        assert found.code == 1
    nothing = cli("checkpoint", "verify", tmp_path / "absent")
    assert (nothing.code, nothing.out) == (2, "")
