"""The samplers by name, and which network each of them serves."""

from __future__ import annotations

from dataclasses import dataclass

from bd3cli.errors import InputError, did_you_mean
from bd3cli.model import TransformerConfig
from bd3cli.sampling.analytic import Analytic
from bd3cli.sampling.ancestral import Ancestral
from bd3cli.sampling.autoregressive import Autoregressive
from bd3cli.sampling.base import Batch
from bd3cli.sampling.confidence import Confidence
from bd3cli.sampling.first_hitting import FirstHitting
from bd3cli.sampling.semi_ar import SemiAutoregressive


@dataclass(frozen=True)
class SamplerInfo:
    """A sampler.

    Attributes:
        families: whose networks it serves; each family's first sampler in the table is its default.
        exact: whether its samples have the distribution the network defines.
        options: fields of a request that only some samplers read, and this one does.
    """

    make: type[Batch]
    families: tuple[str, ...]
    exact: bool
    options: tuple[str, ...] = ()


SAMPLERS: dict[str, SamplerInfo] = {
    "first-hitting": SamplerInfo(FirstHitting, ("bd3lm", "mdlm"), exact=True),
    "ancestral": SamplerInfo(Ancestral, ("bd3lm", "mdlm"), exact=False, options=("steps",)),
    "confidence": SamplerInfo(Confidence, ("bd3lm", "mdlm"), exact=False, options=("threshold",)),
    "semi-ar": SamplerInfo(SemiAutoregressive, ("mdlm",), exact=False, options=("stride",)),
    "ar": SamplerInfo(Autoregressive, ("ar",), exact=True),
    "analytic": SamplerInfo(Analytic, ("sedd",), exact=False, options=("steps",)),
}


def choose_sampler(config: TransformerConfig, name: str | None = None) -> str:
    """The sampler called `name`, or the family's own.

    Raises:
        InputError: there is none of that name, or it does not serve this family.
    """
    fitting = [key for key, info in SAMPLERS.items() if config.family in info.families]
    if name is None:
        return fitting[0]
    if name not in SAMPLERS:
        raise InputError(
            f"There is no sampler {name!r}.{did_you_mean(name, SAMPLERS)} Samplers: {', '.join(SAMPLERS)}."
        )
    if name not in fitting:
        raise InputError(
            f"Sampler {name!r} serves {' and '.join(SAMPLERS[name].families)} networks; this one is {config.family}. "
            f"Choose {' or '.join(fitting)}."
        )
    return name
