"""Ancestral sampling with T time steps (Austin et al. 2021; Sahoo et al. 2024).

From mask probability t to s, each masked token stays masked with probability s / t. Put together over steps of
1 / T: the moment a token is unmasked is uniform in [0, 1), and all tokens whose moments fall into the same of
T equal cells are drawn from one evaluation. Drawing the moments first gives the same process, needs no
evaluation where nothing happens, and cannot leave a mask behind: the last cell ends at 0.
"""

from __future__ import annotations

from torch import Tensor

from bd3cli.sampling.blockwise import Blockwise


class Ancestral(Blockwise):
    """At most T evaluations a block; as T grows the distribution becomes that of first-hitting."""

    reads = ("steps",)

    def order(self, u: Tensor) -> Tensor:
        return (u * self.request.steps).long().clamp_max(self.request.steps - 1)

    def mask_prob(self, row: Tensor, place: Tensor) -> Tensor:
        return 1 - self.turns[row, place] / self.request.steps
