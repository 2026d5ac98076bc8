"""The sampler of docs/plugins.md, as a distribution."""

from dataclasses import dataclass

import torch

from bd3cli import hookimpl
from bd3cli.parameters import parameter
from bd3cli.sampling import Blockwise


class LeftToRight(Blockwise):
    """From left to right, some tokens at a time."""

    @dataclass(frozen=True)
    class Options:
        together: int = parameter(1, "tokens revealed by one network evaluation", low=1)

    def order(self, u):
        return torch.arange(u.shape[-1]).div(self.options.together, rounding_mode="floor").expand(u.shape)


@hookimpl
def register_samplers(register):
    register("left-to-right", LeftToRight)
