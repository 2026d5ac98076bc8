"""Token by token, left to right."""

from __future__ import annotations

import torch
from torch import Tensor

from bd3cli.model import Transformer
from bd3cli.sampling.base import Batch, Request, Rows, Watch
from bd3cli.sampling.blockwise import CHUNK


class Autoregressive(Batch):
    """One evaluation a token. Beyond the context a token sees the L before it."""

    families = ("ar",)
    exact = True

    def __init__(self, model: Transformer, request: Request, seeds: list[int]) -> None:
        super().__init__(model, request, seeds)
        slides = request.cached and request.length > model.config.length
        self.cache = model.new_cache(len(seeds), model.config.length + CHUNK if slides else request.length)

    def start(self, seeds: list[int]) -> Rows:
        rows = Rows.start(seeds, self.request.prompt, self.request.length, 0)
        rows.known += len(self.request.prompt)
        return rows

    def step(self, watch: Watch) -> None:
        rows, cache = self.rows, self.cache
        known = int(rows.known[0])  # all rows are at the same token
        begin = -1
        while begin < known:
            begin = int(cache.lengths[0])
            pending = min(known - begin, cache.room) if self.request.cached else known
            counts = torch.full((len(rows),), pending)
            span = cache.span(counts)
            tokens = rows.tokens[span.rows, span.positions].to(self.device)
            hidden = self.model.extend(tokens, span, cache, counts.cumsum(0) - 1)
            begin += pending
            rows.nfe += 1
            if self.request.cached:
                cache.lengths = cache.lengths + counts
            if begin < known:
                self.took_in(watch)
        new, _ = self.choose(hidden, rows.uniform(1).squeeze(1))
        rows.tokens[:, known] = new
        rows.known += 1
        watch(rows, torch.arange(len(rows)), torch.full((len(rows),), known))

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.cache.keep(rows)
