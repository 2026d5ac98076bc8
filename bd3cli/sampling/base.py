"""What samplers are asked and what they answer. Shapes: B rows, n tokens so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from bd3cli.model import Transformer
from bd3cli.rng import generator

Watch = Callable[[Tensor], None]  # receives the tokens [B, n] after every step, masks included


@dataclass(frozen=True)
class Request:
    """What to generate.

    Attributes:
        length: tokens of every sample, BOS and prompt included.
        prompt: token ids every sample starts with, BOS first.
        nucleus: keep the smallest set of tokens with at least this probability; 1 keeps all.
        temperature: divides the logits.
        cached: reuse keys and values of clean tokens; False recomputes them, for comparison.
    """

    length: int
    prompt: tuple[int, ...]
    nucleus: float = 1.0
    temperature: float = 1.0
    cached: bool = True


@dataclass(frozen=True)
class Sample:
    """One generated sequence.

    Attributes:
        tokens: ids, BOS and prompt included.
        text: decoded, special tokens dropped.
        length: number of tokens.
        nfe: network evaluations this row took part in.
        stop: why it ended (``length``).
        seed: with ``--num 1 --seed`` this number gives the same sample again.
    """

    tokens: list[int]
    text: str
    length: int
    nfe: int
    stop: str
    seed: int


@dataclass(frozen=True)
class SampleSet:
    """Samples with how fast they came.

    Attributes:
        seconds: wall time of generation.
        generated: new tokens over all samples (prompts not counted).
        entropy: mean over samples of the entropy of their token counts, in nats; low means repetitive.
    """

    samples: list[Sample]
    seconds: float
    generated: int
    entropy: float

    @property
    def tokens_per_second(self) -> float:
        return self.generated / self.seconds if self.seconds > 0 else 0.0


class Sampler(Protocol):
    """Generates a batch of rows."""

    def __call__(self, model: Transformer, request: Request, rows: Rows, watch: Watch | None) -> tuple[Tensor, int]:
        """Tokens [B, at least request.length], and network evaluations a row."""
        ...


@dataclass
class Rows:
    """One random stream a row, so that a row's tokens do not depend on its neighbours."""

    seeds: list[int]
    _streams: list[torch.Generator] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._streams = [generator(seed, "sample") for seed in self.seeds]

    def __len__(self) -> int:
        return len(self.seeds)

    def uniform(self) -> Tensor:
        """The next float64 uniform in [0, 1) of every row, [B]."""
        return torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in self._streams])
