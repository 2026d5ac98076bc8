"""For authors of samplers: check that one finishes, row by row, and has the distribution it claims."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import torch

from bd3cli.model import Transformer, TransformerConfig
from bd3cli.recipes.families import NAMES, get_family
from bd3cli.sampling.base import Finished, Request, ignore
from bd3cli.sampling.choose import Choice
from bd3cli.sampling.registry import sampler_class
from bd3cli.testing.law import Law, Laws, Outcome, run_laws

__all__ = ["check_sampler"]

VOCABULARY = 12  # ids of the network the shape of samples is seen on, its mask the last
HEAT = 2.0  # a temperature that leaves every outcome likely enough to count
DRAWN = 6_000  # samples a distribution is told from
Joint = dict[tuple[int, ...], float]


def check_sampler(spec: str) -> list[Law]:
    """Check every law of an installed sampler, on small random networks of each family it serves.

    Args:
        spec: its name, or ``"name:key=value"``.
    """
    return run_laws(spec, LAWS)


def families(spec: str) -> Outcome:
    """It serves families that there are."""
    served = sampler_class(spec).families
    unknown = [family for family in served if family not in NAMES]
    if unknown:
        return False, f"there is no family {unknown[0]!r}; the families are {', '.join(NAMES)}"
    return True, f"serves {', '.join(served)}"


def complete(spec: str) -> Outcome:
    """Every sample has the length asked for, no mask, and what was given."""
    for family in sampler_class(spec).families:
        model = _network(family)
        mask = VOCABULARY - 1
        holes = () if model.config.traits.causal else ((3, mask, 5, mask, mask, 2),)
        for length, prompt in ((8, (3,)), (7, (3, 1, 4)), *((8, given) for given in holes)):
            for row in _draw(model, Request(length, prompt, spec), [0, 1, 2]):
                tokens = row.tokens.tolist()
                kept = all(got == given for got, given in zip(tokens, prompt, strict=False) if given != mask)
                if len(tokens) != length or mask in tokens or not kept:
                    return False, f"{family}: asked for {length} tokens after {list(prompt)}, it made {tokens}"
    return True, "every sample is finished and begins with its prompt"


def rows(spec: str) -> Outcome:
    """A sample depends on its seed alone, not on the samples made beside it."""
    for family in sampler_class(spec).families:
        model, request = _network(family), Request(8, (3,), spec)
        together = {row.seed: row.tokens.tolist() for row in _draw(model, request, [5, 6, 7])}
        for seed in together:
            (alone,) = _draw(model, request, [seed])
            if alone.tokens.tolist() != together[seed]:
                return False, (
                    f"{family}: seed {seed} gives {together[seed]} beside others, {alone.tokens.tolist()} alone: take "
                    "randomness from self.rows.uniform only"
                )
    return True, "a sample is the same alone and beside others"


def exact(spec: str) -> Outcome:
    """If it says so, its samples have the distribution that the network defines, enumerated here."""
    sampler = sampler_class(spec)
    if not sampler.exact:
        return True, "it does not say that it is exact"
    from scipy import stats

    told = []
    for family in sampler.families:
        model = _network(family, vocabulary=4, length=4)
        if model.config.time_conditioning:
            continue  # what it defines depends on times, over which nothing is enumerated here
        joint = (_left_to_right if model.config.traits.causal else _any_order)(model, (1,), 4)
        request = Request(4, (1,), spec, Choice(temperature=HEAT))
        found = Counter(tuple(row.tokens.tolist()) for row in _draw(model, request, list(range(DRAWN))))
        keys = sorted(joint)
        p = float(stats.chisquare([found[key] for key in keys], [joint[key] * DRAWN for key in keys]).pvalue)
        told.append(f"{family}: p = {p:.2g}")
        if p < 1e-4:
            return False, f"{told[-1]} for {DRAWN} samples against the enumerated distribution; set exact = False"
    return True, ", ".join(told)


def _network(family: str, vocabulary: int = VOCABULARY, length: int = 8) -> Transformer:
    """A small random network, the same one every time."""
    traits = get_family(family)
    size = traits.block_size(4, length)
    shape = {"hidden_size": 16, "blocks": 1, "heads": 2, "cond_dim": 8, "time_conditioning": traits.needs_time}
    config = TransformerConfig(family, vocabulary, vocabulary - 1, length, size, dropout=0.0, **shape)  # type: ignore
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Transformer(config, "reference").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
    return model


def _draw(model: Transformer, request: Request, seeds: list[int]) -> list[Finished]:
    found: list[Finished] = []
    with torch.inference_mode():
        batch = sampler_class(request.sampler)(model, request, seeds)
        while batch.rows:
            batch.step(ignore)
            found += batch.finish()
    return found


def _probabilities(model: Transformer) -> Callable[[tuple[int, ...]], torch.Tensor]:
    """Of every token [n, V - 1] at every position of a sequence, each sequence asked about once."""
    known: dict[tuple[int, ...], torch.Tensor] = {}

    def ask(x: tuple[int, ...]) -> torch.Tensor:
        if x not in known:
            tokens = torch.tensor([x])
            with torch.inference_mode():
                logits = model.logits(model(tokens, None))[0, :, : model.config.vocab_size - 1].double()
            known[x] = (logits / HEAT).softmax(-1)
        return known[x]

    return ask


def _any_order(model: Transformer, prompt: tuple[int, ...], length: int) -> Joint:
    """A denoiser's own distribution of a block: revealed in a uniformly random order."""
    ask, mask = _probabilities(model), model.config.vocab_size - 1
    orders = list(itertools.permutations(range(len(prompt), length)))
    total: Joint = {}
    for order in orders:
        states = {prompt + (mask,) * (length - len(prompt)): 1 / len(orders)}
        for place in order:
            states = {
                (*x[:place], token, *x[place + 1 :]): p * float(ask(x)[place, token])
                for x, p in states.items()
                for token in range(mask)
            }
        for x, p in states.items():
            total[x] = total.get(x, 0.0) + p
    return total


def _left_to_right(model: Transformer, prompt: tuple[int, ...], length: int) -> Joint:
    """The distribution of a network that predicts the next token."""
    ask, mask, states = _probabilities(model), model.config.vocab_size - 1, {prompt: 1.0}
    for place in range(len(prompt), length):
        states = {(*x, token): p * float(ask(x)[place - 1, token]) for x, p in states.items() for token in range(mask)}
    return states


LAWS: Laws[str] = (("families", families), ("complete", complete), ("rows", rows), ("exact", exact))
