"""The network: who sees whom, agreement with the published layout, strict loading."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bd3cli
from bd3cli.errors import InputError
from bd3cli.model import load_tensors
from bd3cli.model.formats.upstream import load_upstream
from bd3cli.model.state import weights_sha256


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 10, (2, 16), generator=torch.Generator().manual_seed(0))


def influence(model, x_t, x_0=None):
    """[inputs, outputs] bool: which position of which input changes which output."""
    base = model(x_t, x_0)
    rows = []
    for source in [x_t, x_0] if x_0 is not None else [x_t]:
        for i in range(x_t.shape[1]):
            changed = source.clone()
            changed[:, i] = (changed[:, i] + 1) % 10
            out = model(changed, x_0) if source is x_t else model(x_t, changed)
            rows.append((out - base).abs().amax((0, 2)) > 1e-7)
    return torch.stack(rows)


def test_block_diffusion_sees_its_own_noisy_block_and_earlier_clean_ones(make_model, tokens) -> None:
    block = torch.arange(16) // 4
    seen = influence(make_model("bd3lm"), tokens, tokens.flip(0))
    assert torch.equal(seen[:16], block[:, None] == block[None, :])
    assert torch.equal(seen[16:], block[:, None] < block[None, :])


def test_ar_is_causal_and_mdlm_sees_everything(make_model, tokens) -> None:
    i = torch.arange(16)
    assert torch.equal(influence(make_model("ar"), tokens), i[:, None] <= i[None, :])
    assert influence(make_model("mdlm"), tokens).all()


@pytest.mark.parametrize("block_size", [1, 2, 4, 8, 16])
def test_extending_a_cache_agrees_with_the_training_pass(make_model, tokens, block_size: int) -> None:
    """Block b of x_t after clean blocks < b gives the same hidden states as x_t ++ x_0 in one pass."""
    model = make_model("bd3lm", block_size=block_size)
    x_t = tokens.masked_fill(torch.rand(2, 16, generator=torch.Generator().manual_seed(1)) < 0.5, 10)
    expected = model(x_t, tokens)
    cache = model.new_cache(2, 16)
    counts = torch.full((2,), block_size)
    for start in range(0, 16, block_size):
        block = slice(start, start + block_size)
        span = cache.span(counts)
        hidden = model.extend(x_t[:, block].flatten(), span, cache).view(2, block_size, -1)
        torch.testing.assert_close(hidden, expected[:, block], atol=1e-5, rtol=1e-5)
        wanted = torch.tensor([block_size - 1])
        one = model.extend(x_t[:, block].flatten(), span, cache, wanted)
        torch.testing.assert_close(one, expected[:1, start + block_size - 1], atol=1e-5, rtol=1e-5)
        model.extend(tokens[:, block].flatten(), span, cache)  # commit the clean block
        cache.lengths = cache.lengths + counts


def test_one_block_of_the_whole_length_is_mdlm(make_model, tokens) -> None:
    block, mdlm = make_model("bd3lm", block_size=16), make_model("mdlm")
    torch.testing.assert_close(block(tokens, tokens.flip(0)), mdlm(tokens), atol=1e-5, rtol=1e-5)


def test_a_fresh_network_predicts_uniformly() -> None:
    from bd3cli.model import Transformer, TransformerConfig

    for family, size in (("ar", 1), ("mdlm", 8), ("bd3lm", 4)):
        config = TransformerConfig(family, 7, 6, 8, size, hidden_size=16, blocks=1, heads=2)  # type: ignore[arg-type]
        model = Transformer(config, "reference")
        x = torch.zeros(1, 8, dtype=torch.long)
        hidden = model(x, x if family == "bd3lm" else None)
        assert torch.equal(model.logits(hidden), torch.zeros(1, 8, 7))


def test_strict_loading_names_what_does_not_fit(make_model) -> None:
    model = make_model()
    state = model.state_dict()
    wrong = dict(state)
    del wrong["blocks.0.norm1.weight"]
    wrong["blocks.7.extra"] = torch.zeros(1)
    wrong["vocab_embed.embedding"] = torch.zeros(3, 3)
    before = weights_sha256(model.state_dict())
    with pytest.raises(InputError) as error:
        load_tensors(model, wrong, "file.safetensors")
    message = str(error.value)
    assert "missing: blocks.0.norm1.weight" in message
    assert "unexpected: blocks.7.extra" in message
    assert "vocab_embed.embedding is [3, 3] instead of [11, 32]" in message
    assert weights_sha256(model.state_dict()) == before


def write_upstream(folder: Path, model, **changes) -> None:
    """A checkpoint in the published layout."""
    c = model.config
    config = {
        "model_type": c.family, "block_size": c.block_size, "cond_dim": c.cond_dim, "hidden_dim": c.hidden_size,
        "model_length": c.length, "n_blocks": c.blocks, "n_heads": c.heads, "dropout": c.dropout,
        "vocab_size": c.vocab_size, "time_conditioning": c.time_conditioning, "cross_attn": True,
    } | changes  # fmt: skip
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    tensors = {f"backbone.{k}": v.contiguous() for k, v in model.state_dict().items()}
    save_file(tensors | {"sampling_eps_min": torch.tensor(1e-3)}, folder / "model.safetensors")


@pytest.mark.parametrize("family", ["ar", "mdlm", "bd3lm"])
def test_upstream_layout_round_trip(make_model, tmp_path: Path, tokens, family: str) -> None:
    model = make_model(family)
    write_upstream(tmp_path, model)
    run = bd3cli.load(str(tmp_path), attention="reference")
    assert run.config == model.config
    assert weights_sha256(run.model.state_dict()) == weights_sha256(model.state_dict())
    log_probs = run.logits(tokens, tokens if family == "bd3lm" else None)
    assert log_probs.shape == (2, 16, 11)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bd3"}, "Did you mean 'bd3lm'"),
        ({"hidden_dim": None}, "lacks 'hidden_dim'"),
        ({"block_size": 5}, "does not divide the length 16"),
        ({"n_blocks": 1}, "unexpected: blocks.1"),
        ({"n_blocks": 3}, "missing: blocks.2"),
        ({"vocab_size": 12}, "instead of [12, 32]"),
        ({"causal": True}, "is not a network of family"),
    ],
)
def test_an_upstream_configuration_that_does_not_fit_is_refused(make_model, tmp_path, changes, message) -> None:
    write_upstream(tmp_path, make_model("bd3lm"), **changes)
    with pytest.raises(InputError) as error:
        load_upstream(tmp_path)
    assert message in str(error.value)


def test_golden_block_diffusion(shared_data: Path) -> None:
    folder = shared_data / "golden" / "bd3lm-b4"
    io = load_file(folder / "io.safetensors")
    out = bd3cli.load(str(folder), attention="reference").logits(io["x_t"], io["x_0"])
    mask_id = out.shape[-1] - 1
    masked = io["x_t"] == mask_id
    assert masked.any()
    torch.testing.assert_close(out[masked][:, :mask_id], io["log_probs"][masked][:, :mask_id], atol=1e-4, rtol=0)


def test_golden_ar(shared_data: Path) -> None:
    folder = shared_data / "golden" / "ar"
    io = load_file(folder / "io.safetensors")
    out = bd3cli.load(str(folder)).logits(io["tokens"][:, :-1])
    torch.testing.assert_close(out[..., :-1], io["log_probs"][..., :-1], atol=1e-4, rtol=0)


def test_golden_sedd(shared_data: Path) -> None:
    folder = shared_data / "golden" / "sedd"
    io = load_file(folder / "io.safetensors")
    out = bd3cli.load(str(folder)).logits(io["x_t"], sigma=io["sigma"])
    torch.testing.assert_close(out, io["log_score"], atol=1e-4, rtol=0)


def test_a_score_is_the_networks_output_relative_to_ignorance(make_model, tmp_path: Path, tokens) -> None:
    """The token that is there scores 1; equal logits give the uniform score 1 / ((e^sigma - 1)(V - 1))."""
    model = make_model("sedd", time_conditioning=True)
    with torch.no_grad():
        model.output_layer.linear.weight.zero_()
        model.output_layer.linear.bias.zero_()
    write_upstream(tmp_path, model)
    run = bd3cli.load(str(tmp_path))
    sigma = torch.tensor([1e-3, 2.0])
    scores = run.logits(tokens, sigma=sigma).exp()
    there = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, tokens[..., None], True)
    assert (scores[there] == 1).all()
    for row, s in enumerate((1e-3, 2.0)):
        expected = 1 / ((math.exp(s) - 1) * 10)
        torch.testing.assert_close(scores[row][~there[row]], torch.full((160,), expected), rtol=1e-4, atol=0)
    with pytest.raises(InputError, match="needs sigma"):
        run.logits(tokens)
    with pytest.raises(InputError, match="one value a sequence"):
        run.logits(tokens, sigma=sigma[:1])


def test_inputs_that_do_not_fit_are_refused(make_model, tmp_path: Path, tokens) -> None:
    write_upstream(tmp_path, make_model("bd3lm"))
    run = bd3cli.load(str(tmp_path), attention="reference")
    with pytest.raises(InputError, match="needs x_0"):
        run.logits(tokens)
    with pytest.raises(InputError, match="one shape"):
        run.logits(tokens, tokens[:, :8])
    with pytest.raises(InputError, match="whole blocks"):
        run.logits(tokens[:, :6], tokens[:, :6])
    with pytest.raises(InputError, match="names no tokenizer"):
        run.split()
