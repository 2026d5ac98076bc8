"""First-hitting sampling (Zheng et al. 2024).

Simulating the reverse process from one unmasking to the next is exact and skips the steps that change
nothing: with n masked tokens the next one to appear is uniform among them. So each evaluation reveals one
token, and a block of n tokens takes n of them.
"""

from __future__ import annotations

from torch import Tensor

from bd3cli.sampling.blockwise import Blockwise


class FirstHitting(Blockwise):
    """One token an evaluation, in a uniformly random order: the times of unmasking are independent and alike."""

    exact = True

    def order(self, u: Tensor) -> Tensor:
        return u.argsort(-1).argsort(-1)
