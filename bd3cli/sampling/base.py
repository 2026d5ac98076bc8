"""The base class of samplers, their requests, and the rows they work on.

Shapes: B rows of a batch, n tokens of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bd3cli.contract import see_to
from bd3cli.errors import InputError
from bd3cli.model import Transformer
from bd3cli.parameters import check_ranges
from bd3cli.rng import generator
from bd3cli.sampling.choose import Choice, choose_tokens
from bd3cli.sampling.promises import PROMISES
from bd3cli.sampling.stopping import StopRule
from bd3cli.spec import build, parse_spec

LOGITS_AT_ONCE = 256  # positions projected onto the vocabulary together


@dataclass(frozen=True)
class Request:
    """What to generate.

    Attributes:
        length: tokens of every sample, BOS and prompt included; the most when there is a stop rule.
        prompt: token ids every sample starts with, BOS first; the mask id where one is to be filled in.
        sampler: the name of a registered sampler, with or without parameters of its own.
        choice: how a token is drawn from its distribution.
        steps: time steps of ``ancestral`` (a block) and ``analytic`` (a sequence).
        threshold: top probability from which ``confidence`` accepts a token.
        stride: new tokens of each window of ``semi-ar``.
        stop: when a sample ends before `length`; None for never.
        cached: reuse keys and values of clean tokens; False recomputes them, for comparison.
    """

    length: int
    prompt: tuple[int, ...]
    sampler: str = "first-hitting"
    choice: Choice = field(default_factory=Choice)
    steps: int = 64
    threshold: float = 0.9
    stride: int | None = None
    stop: StopRule | None = None
    cached: bool = True


@dataclass(frozen=True)
class Finished:
    """A row that is done: its seed, its tokens [n], the network evaluations it took part in, and why it ended."""

    seed: int
    tokens: Tensor
    nfe: int
    stop: str


@dataclass
class Rows:
    """The live rows of a batch.

    Every row has its own random stream and draws from it at its own pace, so its tokens do not depend on its
    neighbours.

    Attributes:
        seeds: [B].
        tokens: [B, n] on the CPU, the mask id where a token is not known yet.
        known: [B] how many tokens from the first are final.
        nfe: [B] network evaluations, those that only took in a part of the prompt among them.
    """

    seeds: list[int]
    tokens: Tensor
    known: Tensor
    nfe: Tensor
    _streams: list[np.random.Generator]

    @staticmethod
    def start(seeds: list[int], prompt: tuple[int, ...], length: int, fill: int) -> Rows:
        """Rows of `length` tokens: the prompt, then `fill`."""
        tokens = torch.full((len(seeds), length), fill)
        tokens[:, : len(prompt)] = torch.tensor(prompt)
        zeros = torch.zeros(len(seeds), dtype=torch.long)
        return Rows(list(seeds), tokens, zeros, zeros.clone(), [generator(seed, "sample") for seed in seeds])

    def __len__(self) -> int:
        return len(self.seeds)

    def uniform(self, n: int, rows: Tensor | None = None) -> Tensor:
        """The next `n` float64 uniforms in [0, 1) of each of `rows` (None: all), [rows, n]."""
        chosen = self._streams if rows is None else [self._streams[i] for i in rows.tolist()]
        return torch.from_numpy(np.stack([g.random(n) for g in chosen]))

    def keep(self, rows: Tensor) -> None:
        """Drop all but `rows` (increasing)."""
        chosen = rows.tolist()
        self.seeds = [self.seeds[i] for i in chosen]
        self._streams = [self._streams[i] for i in chosen]
        self.tokens, self.known, self.nfe = self.tokens[rows], self.known[rows], self.nfe[rows]


# Told after each network evaluation: the rows, and which positions of which rows it revealed.
Watch = Callable[[Rows, Tensor, Tensor], None]


def ignore(rows: Rows, row: Tensor, position: Tensor) -> None:
    """A `Watch` that looks away."""


@dataclass(frozen=True)
class NoOptions:
    """The options of a sampler that has none of its own."""


class Batch(ABC):
    """A sampler: rows generated together; each finishes on its own and leaves.

    Attributes:
        families: whose networks it serves.
        exact: whether its samples have the distribution the network defines.
        reads: which it reads of ``steps``, ``threshold`` and ``stride``, the fields that only some samplers do.
        windows: whether it goes beyond the context of a network with one block, by moving a window.
        Options: a frozen dataclass whose fields are parameters of its own, written ``name:key=value``.
        options: those asked for.
        rows: those not finished.
    """

    families: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()
    windows: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        see_to(cls, PROMISES)

    @classmethod
    def made_options(cls, spec: str) -> Any:
        """The `Options` that a specification gives.

        Raises:
            InputError: unknown parameter, or a value that it cannot have.
        """
        made: Any = build(cls.Options, parse_spec(spec), "sampler")
        try:
            check_ranges(made)
        except ValueError as error:
            raise InputError(f"Sampler {parse_spec(spec).name!r}: {error}") from error
        return made

    def __init__(self, model: Transformer, request: Request, seeds: list[int]) -> None:
        self.model, self.request = model, request
        self.options = self.made_options(request.sampler)
        self.device = next(model.parameters()).device
        self.mask_id = -1 if model.config.mask_id is None else model.config.mask_id
        self.rows = self.start(seeds)
        self._looked = self.rows.known.clone()
        self._evaluated = self.rows.nfe.clone()
        # behind the last token that was given: what comes there may be cut off by a stop rule
        self._given = max((i + 1 for i, token in enumerate(request.prompt) if token != self.mask_id), default=0)

    @abstractmethod
    def start(self, seeds: list[int]) -> Rows:
        """The rows before the first step."""

    @abstractmethod
    def step(self, watch: Watch) -> None:
        """At least one network evaluation of every row, after which `rows.known` says what is final."""

    def took_in(self, watch: Watch) -> None:
        """Tell of an evaluation that took in a part of the prompt and revealed nothing."""
        nothing = torch.zeros(0, dtype=torch.long)
        watch(self.rows, nothing, nothing)

    def choose(self, hidden: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens for final hidden states [m, d], and the probability of the most probable ones, on the CPU."""
        mask_id, ids, tops = self.model.config.mask_id, [], []
        for part, noise in zip(hidden.split(LOGITS_AT_ONCE), u.split(LOGITS_AT_ONCE), strict=True):
            new, top = choose_tokens(self.model.logits(part), noise, mask_id=mask_id, choice=self.request.choice)
            ids.append(new.cpu())
            tops.append(top.cpu())
        return torch.cat(ids), torch.cat(tops)

    def finish(self) -> list[Finished]:
        """Take out the rows that are done."""
        rows, request, done = self.rows, self.request, {}
        for i in (rows.known != self._looked).nonzero().flatten().tolist():
            end, why = int(rows.known[i]), None
            if request.stop is not None and (found := request.stop.find(rows.tokens[i, :end], self._given)):
                end, why = found
            if end > request.length or (why is None and end == request.length):
                end, why = request.length, "length"
            if why is not None:
                done[i] = Finished(rows.seeds[i], rows.tokens[i, :end].clone(), int(rows.nfe[i]), why)
        self._looked, self._evaluated = rows.known.clone(), rows.nfe.clone()
        if done:
            self.keep(torch.tensor([i for i in range(len(rows)) if i not in done], dtype=torch.long))
        return list(done.values())

    def keep(self, rows: Tensor) -> None:
        """Drop all but `rows` (increasing)."""
        self.rows.keep(rows)
        self._looked, self._evaluated = self._looked[rows], self._evaluated[rows]

    def unfinished(self) -> list[Finished]:
        """What the live rows have so far, for one who cannot wait."""
        rows = self.rows
        return [
            Finished(seed, rows.tokens[i, : int(rows.known[i])].clone(), int(rows.nfe[i]), "interrupted")
            for i, seed in enumerate(rows.seeds)
        ]
