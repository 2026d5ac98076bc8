"""What defines a network, independent of how it was trained."""

from __future__ import annotations

from dataclasses import dataclass

from bd3cli.data import Tokenizer
from bd3cli.errors import InputError
from bd3cli.recipes.families import Family, FamilyName, get_family
from bd3cli.recipes.settings import Recipe


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and behaviour of a `Transformer`.

    Attributes:
        family: what `bd3cli.recipes.families` describes under this name.
        vocab_size: rows of the embedding, the mask token's included.
        mask_id: id of the mask token; None for ``ar`` networks without one.
        length: context length L the network was trained for.
        block_size: L'; equal to `length` for ``mdlm`` and ``sedd``, 1 for ``ar``.
        hidden_size: width d.
        blocks: number of transformer blocks.
        heads: attention heads; divides `hidden_size`.
        cond_dim: width of the time embedding.
        dropout: probability on the two residual branches.
        time_conditioning: whether the noise level reaches the network; when False it sees sigma = 0. Always
            for ``sedd``; never where blocks have noise levels of their own.
    """

    family: FamilyName
    vocab_size: int
    mask_id: int | None
    length: int
    block_size: int
    hidden_size: int = 256
    blocks: int = 4
    heads: int = 4
    cond_dim: int = 128
    dropout: float = 0.1
    time_conditioning: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise InputError(
                f"model.hidden_size {self.hidden_size} cannot be split into {self.heads} heads of even width. "
                "Choose model.heads so that hidden_size / heads is an even whole number."
            )
        if self.length % self.block_size:
            raise InputError(
                f"block size {self.block_size} does not divide the length {self.length}. "
                f"Choose one of: {', '.join(map(str, divisors(self.length)))}."
            )

        if self.traits.needs_time and not self.time_conditioning:
            raise InputError(f"time_conditioning must be true for {self.family}: its score depends on the noise.")
        if self.time_conditioning and self.block_size < self.length:
            raise InputError(
                f"time_conditioning needs one noise level a sequence; a {self.family} network with block size "
                f"{self.block_size} of {self.length} has none. It must be false."
            )

    @property
    def traits(self) -> Family:
        """What its family's networks have in common."""
        return get_family(self.family)

    @property
    def two_halves(self) -> bool:
        """Whether the network reads the clean sequence beside the noisy one."""
        return self.traits.reads_clean and self.block_size < self.length

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def network_config(recipe: Recipe, tokenizer: Tokenizer) -> TransformerConfig:
    m = recipe.model
    return TransformerConfig(
        family=recipe.objective.family,
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.mask_id,
        length=m.length,
        block_size=recipe.block_size,
        hidden_size=m.hidden_size,
        blocks=m.blocks,
        heads=m.heads,
        cond_dim=m.cond_dim,
        dropout=m.dropout,
        time_conditioning=recipe.time_conditioning,
    )
