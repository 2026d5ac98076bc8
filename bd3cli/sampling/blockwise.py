"""Block by block: what first-hitting, ancestral and confidence sampling share.

Shapes: B rows, n tokens of a row, b block size, m positions whose turn it is.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from bd3cli.diffusion.conditioning import noise_level
from bd3cli.model import Transformer
from bd3cli.sampling.base import Batch, Request, Rows, Watch

CHUNK = 64  # tokens of a long prompt that are taken in at once beyond the window, at least


class Blockwise(Batch):
    """Denoise one block after the other, each row at its own pace.

    Two uniforms belong to every position: one decides when it is revealed (its moment: the time from 1 on
    backwards), the other which token it gets. A subclass makes turns of the moments. The last block is
    denoised whole and then cut, so that what is left of it has the distribution the network defines.

    A finished block is not sent through the network on its own: its keys and values enter the cache with the
    first evaluation of the next block.
    """

    families: ClassVar[tuple[str, ...]] = ("bd3lm", "mdlm")

    def __init__(self, model: Transformer, request: Request, seeds: list[int]) -> None:
        self.size = model.config.block_size
        super().__init__(model, request, seeds)
        total, context = self.rows.tokens.shape[1], model.config.length
        slides = request.cached and total > context
        room = max(self.size, CHUNK // self.size * self.size)
        self.timed = model.config.time_conditioning  # then the block is the whole sequence
        if not self.timed:
            self.cache = model.new_cache(len(seeds), context + room if slides else total)
        self.turns = torch.zeros(len(seeds), self.size, dtype=torch.long)
        self.moments = torch.zeros(len(seeds), self.size, dtype=torch.float64)
        self.u = self.moments.clone()
        self._begin(torch.arange(len(seeds)))

    def start(self, seeds: list[int]) -> Rows:
        whole = -(-self.request.length // self.size) * self.size
        return Rows.start(seeds, self.request.prompt, whole, self.mask_id)

    @abstractmethod
    def order(self, u: Tensor) -> Tensor:
        """The turn of each position of a block, lowest first, from its moments [rows, b]."""

    def accept(self, top: Tensor) -> Tensor:
        """Which positions to reveal, [B, b] bool, given the top probability of those whose turn it is, else -1."""
        return top >= 0

    def mask_prob(self, row: Tensor, place: Tensor) -> Tensor:
        """The mask probability [m] at which the positions whose turn it is are revealed, for networks that see it."""
        return 1 - self.moments[row, place]

    def step(self, watch: Watch) -> None:
        rows = self.rows
        places = rows.known.unsqueeze(1) + torch.arange(self.size)
        masked = rows.tokens.gather(1, places) == self.mask_id
        row, place = self._due(masked).nonzero(as_tuple=True)
        if not self.timed:
            self._take_in_prompt(watch)
        hidden = self._at_noise_level(row, place) if self.timed else self._extend(row, place)
        new, top = self.choose(hidden, self.u[row, place])
        accepted = self.accept(torch.full(masked.shape, -1.0, dtype=top.dtype).index_put_((row, place), top))
        chosen = accepted[row, place]
        row, place = row[chosen], place[chosen]
        position = places[row, place]
        rows.tokens[row, position] = new[chosen]
        rows.nfe += 1
        watch(rows, row, position)
        self._begin((~masked | accepted).all(-1).nonzero().flatten())

    def _extend(self, row: Tensor, place: Tensor) -> Tensor:
        """Final hidden states [m, d] at places of the rows' blocks, earlier blocks taken from the cache."""
        rows, cache = self.rows, self.cache
        span = cache.span(rows.known + self.size - cache.lengths)
        wanted = span.counts.cumsum(0)[row] - self.size + place
        tokens = rows.tokens[span.rows, span.positions]
        hidden = self.model.extend(tokens.to(self.device), span, cache, wanted)
        if self.request.cached:
            cache.lengths = rows.known.clone()
        return hidden

    def _at_noise_level(self, row: Tensor, place: Tensor) -> Tensor:
        """The same from a network that is told the noise level of its one block."""
        level = torch.zeros(len(self.rows), dtype=torch.float64)
        level[row] = self.mask_prob(row, place).double()  # one for all positions of a row whose turn it is
        tokens = self.rows.tokens.to(self.device)
        hidden: Tensor = self.model(tokens, None, noise_level(level).float().to(self.device))
        return hidden[row.to(self.device), place.to(self.device)]

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        if not self.timed:
            self.cache.keep(rows)
        self.turns, self.moments, self.u = self.turns[rows], self.moments[rows], self.u[rows]

    def _due(self, masked: Tensor) -> Tensor:
        """The masked positions of each row whose turn comes first."""
        turns = torch.where(masked, self.turns, torch.iinfo(torch.long).max)
        return masked & (turns == turns.amin(-1, keepdim=True))

    def _begin(self, rows: Tensor) -> None:
        """Move `rows` to their next block with a mask, and draw what its positions need."""
        if not len(rows):
            return
        masked = self.rows.tokens[rows] == self.mask_id
        first = torch.where(masked, torch.arange(masked.shape[1]), masked.shape[1]).amin(-1) // self.size * self.size
        self.rows.known[rows] = first
        rows = rows[first < masked.shape[1]]
        if len(rows):
            u = self.rows.uniform(2 * self.size, rows)
            self.moments[rows], self.u[rows] = u[:, : self.size], u[:, self.size :]
            self.turns[rows] = self.order(u[:, : self.size])

    def _take_in_prompt(self, watch: Watch) -> None:
        """Commit what a long prompt has beyond what one pass may add, in evaluations of their own."""
        rows, cache = self.rows, self.cache
        while self.request.cached and int((rows.known + self.size - cache.lengths).max()) > cache.room:
            counts = (rows.known - cache.lengths).clamp_max(cache.room)
            span = cache.span(counts)
            tokens = rows.tokens[span.rows, span.positions]
            self.model.extend(tokens.to(self.device), span, cache, torch.zeros(1, dtype=torch.long))
            cache.lengths = cache.lengths + counts
            rows.nfe += counts > 0
            self.took_in(watch)
