"""Fixtures shared by all tests: small networks, a small trained run, and the command line in process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bd3cli.model import Transformer, TransformerConfig
from bd3cli.recipes.resolve import resolve
from bd3cli.training.loop import train

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No variable of the developer's shell, and no cache of theirs, reaches a test."""
    for name in list(os.environ):
        if name.startswith("BD3CLI_") and name != "BD3CLI_SHARED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("BD3CLI_CACHE", str(tmp_path_factory.getbasetemp() / "token-cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text and golden checkpoints beside the repository; tests that want them skip without."""
    folder = Path(os.environ.get("BD3CLI_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside the repository")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """Tests end processes, never the machine: what was written is there without waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


MakeModel = Callable[..., Transformer]


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A small random network of any family; unlike a fresh one, its output and modulation are not zero."""

    def make(family: str = "bd3lm", length: int = 16, block_size: int = 4, vocab: int = 11, **more: Any) -> Transformer:
        torch.manual_seed(3)
        size = {"ar": 1, "bd3lm": block_size}.get(family, length)
        options = {"hidden_size": 32, "blocks": 2, "heads": 2, "cond_dim": 8, "dropout": 0.0} | more
        config = TransformerConfig(family, vocab, vocab - 1, length, size, **options)  # type: ignore[arg-type]
        model = Transformer(config, "reference").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
        return model

    return make


QUICK = (
    "model.hidden_size=64", "model.blocks=2", "model.heads=2", "model.cond_dim=16", "model.length=32",
    "train.batch_size=16", "train.precision=fp32", "train.ema=0.9", "train.learning_rate=0.003",
    "train.validate_sequences=32", "train.log_every=5",
)  # fmt: skip


@pytest.fixture(scope="session")
def quick() -> tuple[str, ...]:
    """Overrides that make the tiny recipe train in seconds."""
    return QUICK


def _train(folder: Path, *overrides: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BD3CLI_CACHE", str(folder.parent / "token-cache"))
        train(resolve("tiny", overrides=[*QUICK, *overrides]), folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block diffusion run (block size 4) trained on the embedded corpus until it has learnt something."""
    folder = tmp_path_factory.mktemp("runs") / "bd3lm"
    return _train(folder, "train.steps=150", "train.validate_every=150")


@pytest.fixture(scope="session")
def trained_ar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoregressive run."""
    return _train(tmp_path_factory.mktemp("runs") / "ar", "objective.family=ar", "train.steps=40")


@dataclass(frozen=True)
class Outcome:
    """What a command line call did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.out)
        assert document["schema"] == 1
        return document


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process."""
    from bd3cli.cli.main import main

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        captured = capfd.readouterr()
        code = stop.value.code
        return Outcome(0 if code is None else int(code), captured.out, captured.err)

    return call
