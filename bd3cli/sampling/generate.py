"""Generate any number of samples in batches."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from bd3cli.data import Tokenizer
from bd3cli.errors import InputError
from bd3cli.model import Transformer
from bd3cli.sampling.autoregressive import autoregressive
from bd3cli.sampling.base import Request, Rows, Sample, Sampler, SampleSet, Watch
from bd3cli.sampling.first_hitting import first_hitting

SAMPLERS: dict[str, Sampler] = {"ar": autoregressive, "mdlm": first_hitting, "bd3lm": first_hitting}


def make_request(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    length: int | None = None,
    prompt: str = "",
    nucleus: float = 1.0,
    temperature: float = 1.0,
    cached: bool = True,
) -> Request:
    """Check and complete what a user asks for; the length defaults to the model's context.

    Raises:
        InputError: a length, prompt, nucleus or temperature that cannot be served.
    """
    context = model.config.length
    ids = (tokenizer.bos_id, *tokenizer.encode(prompt))
    wanted = context if length is None else length
    if not 2 <= wanted <= context:
        raise InputError(f"The length must lie between 2 and the model's context of {context} tokens, not {wanted}.")
    if len(ids) >= wanted:
        raise InputError(
            f"The prompt takes {len(ids)} tokens with BOS, which leaves none of {wanted} to generate. "
            "Shorten the prompt or raise --length."
        )
    if not 0 < nucleus <= 1:
        raise InputError(f"nucleus must lie in (0, 1], not {nucleus}.")
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature must be positive, not {temperature}.")
    return Request(wanted, ids, nucleus, temperature, cached)


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    request: Request,
    *,
    num: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    watch: Watch | None = None,
) -> SampleSet:
    """`num` samples; sample i depends on ``seed + i`` alone, whatever the batch size."""
    clock = time.perf_counter()
    samples = list(stream(model, tokenizer, request, num=num, seed=seed, batch_size=batch_size, watch=watch))
    seconds = time.perf_counter() - clock
    new = sum(sample.length - len(request.prompt) for sample in samples)
    entropy = sum(token_entropy(sample.tokens) for sample in samples) / len(samples)
    return SampleSet(samples, seconds, new, entropy)


def stream(
    model: Transformer,
    tokenizer: Tokenizer,
    request: Request,
    *,
    num: int,
    seed: int,
    batch_size: int = 16,
    watch: Watch | None = None,
) -> Iterator[Sample]:
    """Like `generate`, yielding the samples of each batch as they are finished."""
    if num < 1:
        raise InputError(f"The number of samples must be at least 1, not {num}.")
    if model.config.time_conditioning:
        raise InputError(
            f"There is no sampler yet for {model.config.family} networks that see the noise level. "
            "Sample a run of another family, or without model.time_conditioning."
        )
    sampler = SAMPLERS[model.config.family]
    for start in range(0, num, batch_size):
        seeds = [seed + i for i in range(start, min(start + batch_size, num))]
        with torch.inference_mode():
            tokens, nfe = sampler(model, request, Rows(seeds), watch)
        for row, row_seed in zip(tokens[:, : request.length].tolist(), seeds, strict=True):
            yield Sample(row, tokenizer.decode(row), len(row), nfe, "length", row_seed)


def token_entropy(tokens: list[int]) -> float:
    """Entropy in nats of the distribution of token ids within one sample."""
    counts = torch.bincount(torch.tensor(tokens)).double()
    probs = counts[counts > 0] / counts.sum()
    return float(-(probs * probs.log()).sum())
