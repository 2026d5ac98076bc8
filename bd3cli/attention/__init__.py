"""Block diffusion attention (arXiv 2503.09573): exact, without a mask of size (2L)^2."""

import bd3cli.attention.compiled  # noqa: F401 - registers the operators that torch.compile sees
from bd3cli.attention.dispatch import BACKENDS, Choice, block_attention, choose_backend
from bd3cli.attention.plan import BlockPlan

__all__ = ["BACKENDS", "BlockPlan", "Choice", "block_attention", "choose_backend"]
