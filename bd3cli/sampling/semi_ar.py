"""Semi-autoregressive decoding of MDLM beyond its context (Han et al. 2022; Sahoo et al. 2024).

The network sees one window of L tokens. It fills the first by first-hitting; then the window moves on by
`stride` tokens, of which the ones it still holds are given and the new ones are masked and filled.
"""

from __future__ import annotations

import torch

from bd3cli.diffusion.conditioning import noise_level
from bd3cli.model import Transformer
from bd3cli.sampling.base import Batch, Request, Rows, Watch


class SemiAutoregressive(Batch):
    """One token an evaluation; every window but the first has L - stride tokens of context.

    Position 0 holds BOS in the first window only.
    """

    families = ("mdlm",)
    reads = ("stride",)
    windows = True

    def __init__(self, model: Transformer, request: Request, seeds: list[int]) -> None:
        self.width = model.config.length
        self.stride = request.stride or self.width // 2
        super().__init__(model, request, seeds)
        self.end = self.width
        self.turns = self.u = torch.zeros(len(seeds), self.width, dtype=torch.float64)
        self._move_on()

    def start(self, seeds: list[int]) -> Rows:
        more = max(0, self.request.length - self.width)
        total = self.width + -(-more // self.stride) * self.stride
        return Rows.start(seeds, self.request.prompt, total, self.mask_id)

    def step(self, watch: Watch) -> None:
        rows, begin = self.rows, self.end - self.width
        window = rows.tokens[:, begin : self.end]
        everyone = torch.arange(len(rows))
        # all rows have the same masks in number and place of the window, so they stay in step
        place = torch.where(window == self.mask_id, self.turns, 2.0).argmin(-1)
        sigma = None
        if self.model.config.time_conditioning:
            sigma = noise_level(1 - self.turns[everyone, place]).float().to(self.device)
        hidden = self.model(window.to(self.device), None, sigma)[everyone.to(self.device), place.to(self.device)]
        new, _ = self.choose(hidden, self.u[everyone, place])
        rows.tokens[everyone, begin + place] = new
        rows.nfe += 1
        watch(rows, everyone, begin + place)
        self._move_on()

    def keep(self, rows: torch.Tensor) -> None:
        super().keep(rows)
        self.turns, self.u = self.turns[rows], self.u[rows]

    def _move_on(self) -> None:
        """To the first window with a mask, drawing when its positions are revealed and which tokens they get."""
        rows, before = self.rows, int(self.rows.known[0])
        while self.end <= rows.tokens.shape[1] and not (rows.tokens[:, : self.end] == self.mask_id).any():
            rows.known[:] = self.end
            self.end += self.stride
        if before == 0 or before != int(rows.known[0]):
            both = rows.uniform(2 * self.width).view(len(rows), 2, -1)
            self.turns, self.u = both[:, 0], both[:, 1]
