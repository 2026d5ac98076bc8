"""The memory estimate against what is kept and what is used, and what a run that cannot fit is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from bd3cli.device import Precision
from bd3cli.diffusion.batch import weighted_nll
from bd3cli.diffusion.objective import Objective
from bd3cli.maskings import MaskNoise
from bd3cli.model import Transformer, TransformerConfig
from bd3cli.recipes.settings import ObjectiveConfig
from bd3cli.training import memory
from bd3cli.training.memory import KEPT, KEPT_BY_DROPOUT, estimate

CPU = torch.device("cpu")


def kept(family: str, precision: str, dropout: float, blocks: int, rows: int = 4) -> int:
    """Bytes that saved tensors hold during a forward pass, weights aside."""
    length, size = 32, {"ar": 1, "bd3lm": 4}.get(family, 32)
    config = TransformerConfig(family, 60, 59, length, size, 64, blocks, 4, 16, dropout=dropout)
    torch.manual_seed(0)
    model = Transformer(config).train()
    tokens = torch.randint(0, 59, (rows, length))
    objective = Objective.build(ObjectiveConfig(family=family, block_size=size), 59, size)
    valid = torch.ones_like(tokens, dtype=torch.bool)
    batch = objective.batch(tokens, valid, MaskNoise.draw(rows, length, size, 0), 0.0).to(CPU)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), Precision(precision, "").autocast(CPU):
        weighted_nll(model, batch)
    return sum(found.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["ar", "mdlm", "bd3lm"])
def test_a_block_keeps_what_the_table_says(family: str, precision: str, dropout: float) -> None:
    rows, halves = 16, 2 if family == "bd3lm" else 1
    grown = kept(family, precision, dropout, 4, rows) - kept(family, precision, dropout, 2, rows)
    measured = grown / 2 / (rows * halves * 32 * 64)  # with the cast weights, which are few beside 16 sequences
    expected = KEPT[precision, family != "ar"] + (KEPT_BY_DROPOUT[precision] if dropout else 0)
    assert 0.85 * expected < measured < 1.08 * expected


def test_what_cannot_fit_is_refused_with_what_would(cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device, processes=1: 200_000_000)
    outcome = cli("train", "--out", tmp_path / "run", "--batch-size", 64)
    assert outcome.code == 2
    said = re.search(r"has 0\.20 GB free\. --set train\.micro_batch_size=(\d+) would fit: (\d+) forward", outcome.err)
    assert said, outcome.err
    assert int(said[1]) * int(said[2]) == 64
    assert not (tmp_path / "run").exists()
    outcome = cli("train", "--out", tmp_path / "run", "--model", "medium", "--length", 1024)
    assert outcome.code == 2
    assert "Not even one sequence at a time would fit" in outcome.err


def test_what_may_not_fit_is_only_warned_of(quick, monkeypatch) -> None:
    from bd3cli.recipes.resolve import resolve
    from bd3cli.training.reporter import Silent
    from bd3cli.training.trainer import prepare

    notices: list[str] = []

    class Listen(Silent):
        def notice(self, text: str) -> None:
            notices.append(text)

    recipe = resolve("tiny", overrides=[*quick, "train.warmup=1"]).recipe
    need = prepare(recipe, Listen()).memory
    assert notices == []
    monkeypatch.setattr(memory, "available", lambda device, processes=1: int(need.total / 1.2))
    prepare(recipe, Listen())
    assert "train.micro_batch_size=8 would fit" in notices[0]
    monkeypatch.setattr(memory, "available", lambda device, processes=1: 1000)
    prepare(resolve("tiny", overrides=[*quick, "train.check_memory=false"]).recipe, Listen())


def test_sharded_state_shrinks_and_average_counts() -> None:
    config = TransformerConfig("bd3lm", 60, 59, 32, 4, 64, 2, 4, 16)
    alone, shared = (estimate(config, 10**8, 1, "fp32", average=True, shards=n) for n in (1, 8))
    assert alone.state == 20 * 10**8
    assert shared.state == 2.5 * 10**8 + 8 * 10**8
    assert estimate(config, 10**8, 1, "fp32", average=False).state == 16 * 10**8


def test_free_memory_is_known_here_and_respects_a_container(tmp_path: Path) -> None:
    free = memory.available(CPU)
    assert free is None or free > 0
    assert memory.available(torch.device("meta")) is None
    assert memory._free_in_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 250\n")
    assert memory._free_in_group(tmp_path) == 550
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_group(tmp_path) is None
