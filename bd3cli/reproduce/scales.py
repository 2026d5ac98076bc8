"""How large a reproduction is: the network, the training budget and the evaluation, the same for every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bd3cli.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Scale:
    """One size of everything.

    Attributes:
        settings: recipe keys that every training shares.
        lengths: context length by training corpus.
        steps: optimizer steps a row sees in all, pretraining included.
        pretraining: fraction of them spent in pretraining, for rows that are finetuned.
        seeds: one whole table each.
        sequences: test sequences of a likelihood, the same ones for every row.
        variance_batches: batches behind a Var. NELBO.
        samples: samples of a row's generative perplexity, and of its lengths.
        cap: longest sample drawn until EOS, in contexts.
    """

    name: str
    description: str
    settings: Mapping[str, Any]
    lengths: Mapping[str, int]
    steps: int
    pretraining: float
    seeds: tuple[int, ...]
    sequences: int
    variance_batches: int
    samples: int
    cap: int

    def steps_of(self, stage: str) -> int:
        """Steps of ``whole``, ``pretrain`` or ``finetune``; the last two add up to the first."""
        before = round(self.steps * self.pretraining)
        return {"whole": self.steps, "pretrain": before, "finetune": self.steps - before}[stage]


SMALL = {"data.tokenizer": "bytes", "model.dropout": 0.0, "train.gradient_clip": 1.0, "data.context": "bos"}

SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            name="smoke",
            description="minutes for all tables; every corpus is a slice of the embedded one. Shows that it runs",
            settings=SMALL
            | {
                "model.hidden_size": 64, "model.blocks": 2, "model.heads": 2, "model.cond_dim": 16,
                "train.batch_size": 8, "train.learning_rate": 5e-3, "train.warmup": 10, "train.ema": 0.9,
                "train.precision": "fp32", "train.validate_sequences": 16,
            },
            lengths={"lm1b": 128, "openwebtext": 128},
            steps=60,
            pretraining=0.5,
            seeds=(0,),
            sequences=48,
            variance_batches=8,
            samples=4,
            cap=2,
        ),
        Scale(
            name="cpu",
            description="two CPU cores, at most about 45 minutes a table; WikiText-2 stands in for OpenWebText",
            settings=SMALL
            | {
                "model.hidden_size": 128, "model.blocks": 2, "model.heads": 4, "model.cond_dim": 32,
                "train.batch_size": 16, "train.learning_rate": 1.5e-3, "train.warmup": 30, "train.beta2": 0.95,
                "train.ema": 0.98, "train.precision": "auto", "train.validate_sequences": 64,
            },
            lengths={"lm1b": 128, "openwebtext": 128},
            steps=600,
            pretraining=0.5,
            seeds=(0, 1, 2),
            sequences=512,
            variance_batches=100,
            samples=50,
            cap=16,
        ),
        Scale(
            name="gpu",
            description="one accelerator, sized for about an hour a table",
            settings={
                "data.tokenizer": "gpt2", "data.context": "bos-eos", "model.dropout": 0.1,
                "model.hidden_size": 512, "model.blocks": 8, "model.heads": 8, "model.cond_dim": 128,
                "train.batch_size": 64, "train.learning_rate": 1e-3, "train.warmup": 200, "train.ema": 0.995,
                "train.precision": "auto", "train.validate_sequences": 256, "train.gradient_clip": 1.0,
            },
            lengths={"lm1b": 128, "openwebtext": 512},
            steps=2000,
            pretraining=0.5,
            seeds=(0, 1, 2),
            sequences=1000,
            variance_batches=100,
            samples=100,
            cap=16,
        ),
    )
}  # fmt: skip
NAMES = (*SCALES, "paper")


def get_scale(name: str) -> Scale:
    """The scale called `name`; ``paper`` has none, it is a list of commands.

    Raises:
        InputError: unknown name.
    """
    if name not in SCALES:
        raise InputError(f"There is no scale {name!r}.{did_you_mean(name, NAMES)} Scales: {', '.join(NAMES)}.")
    return SCALES[name]
