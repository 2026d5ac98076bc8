"""The families of models, and all that tells them apart. Light to import: no torch here.

The name of a family is text in recipes, checkpoints and JSON. Code that behaves differently for different families
asks for the fact that makes the difference, never for the name: `tests/recipes/test_families.py` holds it to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from bd3cli.errors import InputError, did_you_mean
from bd3cli.recipes.options import Reader

FamilyName = Literal["ar", "sedd", "mdlm", "bd3lm"]
NAMES: tuple[FamilyName, ...] = get_args(FamilyName)


@dataclass(frozen=True)
class Family:
    """What all networks of a family have in common.

    Attributes:
        name: as recipes and checkpoints spell it.
        label: as people write it.
        attention: ``causal``: to the tokens before; ``full``: to every token; ``block-causal``: to every token of the
            own noisy block and of the clean blocks before, whose clean tokens are a second input.
        blocks: ``token``: every token is a block (L' = 1); ``whole``: the context is one (L' = L); ``chosen``: the
            recipe says the size.
        modulated: whether the network has the adaLN time modulation.
        masks: whether training masks tokens. Without, the loss is that of the next token.
        noise_levels: how many a sequence has. A network can be told one a sequence, no more.
        needs_time: whether the network makes no sense without being told the noise level.
        parameterization: what the network's outputs are: log-probabilities of the next token, log-probabilities of
            masked tokens (SUBS: none for the mask token, unmasked tokens copied), or logarithms of a score.
        likelihood: ``exact``, or a lower ``bound`` of it, which is tight where a block is one token.
        default_masking: `objective.masking` that goes with it unless one is named; None where nothing is masked.
        recut: family of the same weights once the context is cut into blocks; None if it cannot be.
        beyond_context: sampler that goes beyond a context that is one block; None if none does.
    """

    name: FamilyName
    label: str
    attention: Literal["causal", "full", "block-causal"]
    blocks: Literal["token", "whole", "chosen"]
    modulated: bool
    masks: bool
    noise_levels: Literal["none", "one a sequence", "one a block"]
    needs_time: bool
    parameterization: Literal["next-token", "subs", "score"]
    likelihood: Literal["exact", "bound"]
    default_masking: str | None
    recut: FamilyName | None
    beyond_context: str | None

    @property
    def causal(self) -> bool:
        """Whether tokens attend to those before them only."""
        return self.attention == "causal"

    @property
    def reads_clean(self) -> bool:
        """Whether the network reads the clean sequence beside the noisy one, where there is more than one block."""
        return self.attention == "block-causal"

    @property
    def tells_level(self) -> bool:
        """Whether the network can be told the noise level, whatever its block size."""
        return self.noise_levels == "one a sequence"

    @property
    def chooses_blocks(self) -> bool:
        """Whether `objective.block_size` has an effect."""
        return self.blocks == "chosen"

    @property
    def mask_use(self) -> str:
        """What it does with masks, to say why options have no effect: words that follow the family's name."""
        return "whose masks are random already" if self.masks else "which masks nothing"

    def has_reader(self, reader: Reader) -> bool:
        """Whether such a reader of options can occur in its training; what nobody reads is refused."""
        return self.masks == (reader != "next-token")

    def block_size(self, chosen: int, length: int) -> int:
        """Block size L' in effect in contexts of `length` tokens, of which the recipe has `chosen` one."""
        return {"token": 1, "whole": length, "chosen": chosen}[self.blocks]

    def is_bound(self, block_size: int) -> bool:
        """Whether likelihoods are lower bounds rather than exact, for blocks of this size."""
        return self.likelihood == "bound" and block_size > 1


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="ar",
            label="AR",
            attention="causal",
            blocks="token",
            modulated=False,
            masks=False,
            noise_levels="none",
            needs_time=False,
            parameterization="next-token",
            likelihood="exact",
            default_masking=None,
            recut=None,
            beyond_context=None,
        ),
        Family(
            name="bd3lm",
            label="BD3LM",
            attention="block-causal",
            blocks="chosen",
            modulated=True,
            masks=True,
            noise_levels="one a block",
            needs_time=False,
            parameterization="subs",
            likelihood="bound",
            default_masking="count",
            recut="bd3lm",
            beyond_context=None,
        ),
        Family(
            name="mdlm",
            label="MDLM",
            attention="full",
            blocks="whole",
            modulated=True,
            masks=True,
            noise_levels="one a sequence",
            needs_time=False,
            parameterization="subs",
            likelihood="bound",
            default_masking="count",
            recut="bd3lm",
            beyond_context="semi-ar",
        ),
        Family(
            name="sedd",
            label="SEDD",
            attention="full",
            blocks="whole",
            modulated=True,
            masks=True,
            noise_levels="one a sequence",
            needs_time=True,
            parameterization="score",
            likelihood="bound",
            default_masking="bernoulli",  # trains better with it: measured, see docs/benchmarks.md
            recut=None,
            beyond_context=None,
        ),
    )
}
BLOCK_DIFFUSION = FAMILIES["bd3lm"]  # what asking for a block size means


def get_family(name: str) -> Family:
    """The family of that name.

    Raises:
        InputError: there is none.
    """
    if name not in FAMILIES:
        raise InputError(f"There is no family {name!r}.{did_you_mean(name, NAMES)} Families: {', '.join(NAMES)}.")
    return FAMILIES[name]


def listed(families: Iterable[Family]) -> str:
    """Their names for messages: ``sedd, mdlm or bd3lm``."""
    *others, last = (family.name for family in families)
    return f"{', '.join(others)} or {last}" if others else last
