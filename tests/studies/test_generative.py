"""Generative perplexity: sliding windows, judges with the same tokenizer and with another."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

import bd3cli
from bd3cli.sampling import generate, make_request
from bd3cli.studies.judges import HubJudge, RunJudge, load_judge, sliding_nats


@pytest.fixture
def samples(trained: Path):
    run = bd3cli.load(str(trained))
    return generate(run.model, run.tokenizer, make_request(run.model, run.tokenizer, length=80), num=3).samples


@pytest.mark.parametrize("n", [2, 7, 8, 9, 12, 13, 30])
def test_windows_score_every_token_once_with_the_context_they_promise(n: int) -> None:
    ids = list(range(100, 100 + n))
    contexts: dict[int, int] = {}

    def remember(window: torch.Tensor) -> torch.Tensor:
        for i, token in enumerate(window[1:].tolist(), start=1):
            contexts.setdefault(token, i)  # the first window that holds it is the one that counts
        return torch.ones(len(window) - 1, dtype=torch.float64)

    assert sliding_nats(ids, 8, 4, remember) == n - 1
    assert set(contexts) == set(ids[1:])
    assert all(c >= min(token - 100, 4) for token, c in contexts.items())


def test_an_ar_run_judges_by_its_own_likelihood(trained_ar: Path, samples) -> None:
    """Within one window: the NLL that `Run.logits` gives; beyond, every token once."""
    run = bd3cli.load(str(trained_ar))
    judge = RunJudge(run)
    ids = samples[0].tokens[:32]
    log_p = run.logits(torch.tensor([ids[:-1]]))[0].double()
    expected = -log_p[torch.arange(31), torch.tensor(ids[1:])].sum().item()
    assert judge.nats(ids) == pytest.approx(expected, rel=1e-5)
    verdict = judge.judge(samples, run.tokenizer)
    assert verdict.tokens == 3 * 79
    assert not verdict.reencoded
    assert not verdict.bound
    assert verdict.ppl == pytest.approx(math.exp(sum(judge.nats(s.tokens) for s in samples) / (3 * 79)))


def test_a_diffusion_run_judges_by_its_bound(trained: Path, samples) -> None:
    run = bd3cli.load(str(trained))
    verdict = RunJudge(run).judge(samples, run.tokenizer)
    assert verdict.bound
    assert verdict.tokens == 3 * 79
    own = math.exp(run.evaluate(run.split("test"), sequences=64).nats_per_token)
    assert own / 3 < verdict.ppl < own * 3


@pytest.fixture
def hub_judge(tmp_path: Path) -> str:
    """A tiny random GPT-2 with a tokenizer of words, as a local directory."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {"<s>": 0, "[UNK]": 1, "the": 2, "a": 3, ".": 4}
    words = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="[UNK]")
    fast.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=5, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_model_of_transformers_judges_the_text(hub_judge: str, trained: Path, samples, cli) -> None:
    judge = HubJudge(hub_judge)
    assert (judge.window, judge.stride) == (32, 16)
    ids = judge.encode("the a . the cat")
    assert ids == [0, 2, 3, 4, 2, 1]
    with torch.inference_mode():
        loss = judge._model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert judge.nats(ids) == pytest.approx(5 * loss, rel=1e-5)
    run = bd3cli.load(str(trained))
    verdict = judge.judge(samples, run.tokenizer)
    assert verdict.reencoded
    assert verdict.tokens == sum(len(judge.encode(s.text)) - 1 for s in samples)
    shown = cli("sample", trained, "--judge", f"hf:{hub_judge}", "--num", 2)
    assert "gen. ppl" in shown.out
    assert "its own tokens of the text" in shown.err
    out = cli("sample", trained, "--judge", f"hf:{hub_judge}", "--json").json
    assert out["gen_ppl"] == out["judge"]["ppl"] > 1


def test_judges_that_cannot_be_loaded(cli, trained: Path, tmp_path: Path) -> None:
    installed = importlib.util.find_spec("transformers") is not None
    hub = "cannot be loaded" if installed else "python -m pip install 'bd3cli[hf]'"
    for name, message in ((f"hf:{tmp_path}", hub), (str(tmp_path), "is not a run")):
        outcome = cli("sample", trained, "--judge", name)
        assert outcome.code == 2
        assert message in outcome.err
        assert "Traceback" not in outcome.err


def test_a_sweep_shows_quality_against_evaluations(cli, trained: Path, trained_ar: Path) -> None:
    settings = ("--steps", "1,3", "--thresholds", "0,1", "--nucleus", "1")
    options = ("--judge", trained_ar, "--num", 2, "--length", 24, *settings)
    rows = cli("bench", "sample", trained, *options, "--json").json["rows"]
    nfe = {(r["sampler"], r.get("steps", r.get("threshold"))): r["nfe"] for r in rows}
    assert nfe[("first-hitting", None)] == 23
    assert nfe[("ancestral", 1)] == nfe[("confidence", 0)] == 6, "one evaluation a block"
    assert nfe[("confidence", 1)] == 23
    assert 6 < nfe[("ancestral", 3)] < 23
    assert all(r["gen_ppl"] > 1 and r["entropy"] > 0 for r in rows)
    assert "gen. ppl" in cli("bench", "sample", trained, *options).out
    assert "needs a judge" in cli("bench", "sample", trained).err
    assert load_judge(str(trained_ar)).bound is False
