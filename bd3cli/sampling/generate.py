"""Generate any number of samples in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bd3cli.data import Tokenizer
from bd3cli.errors import InputError
from bd3cli.model import Transformer, evaluating
from bd3cli.sampling.base import Finished, Request, Watch, ignore
from bd3cli.sampling.registry import sampler_class
from bd3cli.sampling.stopping import entropy


@dataclass(frozen=True)
class Sample:
    """One generated sequence.

    Attributes:
        tokens: ids, BOS and prompt included.
        text: decoded, special tokens dropped.
        length: number of tokens.
        nfe: network evaluations this row took part in, those that took in a long prompt among them.
        stop: why it ended: ``length``, ``eos``, ``entropy``, or ``interrupted``.
        seed: with ``--num 1 --seed`` this number gives the same sample again.
    """

    tokens: list[int]
    text: str
    length: int
    nfe: int
    stop: str
    seed: int


@dataclass(frozen=True)
class SampleSet:
    """Samples, in the order of their seeds, with how fast they came.

    Attributes:
        seconds: wall time of generation.
        generated: new tokens over all samples (what was given is not counted; the holes of a template are).
        interrupted: whether it was cut short; a sample that was under way ends with ``interrupted``.
    """

    samples: list[Sample]
    seconds: float
    generated: int
    interrupted: bool = False

    @property
    def tokens_per_second(self) -> float:
        return self.generated / self.seconds if self.seconds > 0 else 0.0

    @property
    def entropy(self) -> float:
        """Mean over samples of the entropy of their token counts, in nats; low means repetitive."""
        return sum(entropy(torch.tensor(s.tokens)) for s in self.samples) / max(1, len(self.samples))


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    request: Request,
    *,
    num: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    watch: Watch = ignore,
    stopped: Callable[[], bool] = lambda: False,
    each: Callable[[Sample], None] = lambda sample: None,
) -> SampleSet:
    """`num` samples; sample i depends on ``seed + i`` alone, whatever the batch size and `num`.

    Dropout is off meanwhile, whatever mode the model is in.

    Args:
        request: from `bd3cli.sampling.make_request`.
        batch_size: rows generated together.
        watch: told after every network evaluation.
        stopped: asked after every network evaluation; once True, what there is so far is returned.
        each: told of every sample as it is finished.
    """
    clock, samples = time.perf_counter(), []
    for sample in stream(
        model, tokenizer, request, num=num, seed=seed, batch_size=batch_size, watch=watch, stopped=stopped
    ):
        samples.append(sample)
        each(sample)
    seconds = time.perf_counter() - clock
    given = [token != model.config.mask_id for token in request.prompt]
    new = sum(sample.length - sum(given[: sample.length]) for sample in samples)
    cut = len(samples) < num or any(sample.stop == "interrupted" for sample in samples)
    return SampleSet(sorted(samples, key=lambda sample: sample.seed), seconds, new, cut)


def stream(
    model: Transformer,
    tokenizer: Tokenizer,
    request: Request,
    *,
    num: int,
    seed: int,
    batch_size: int = 16,
    watch: Watch = ignore,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Sample]:
    """Like `generate`, yielding each sample as it is finished."""
    if num < 1:
        raise InputError(f"The number of samples must be at least 1, not {num}.")
    if batch_size < 1:
        raise InputError(f"The batch size must be at least 1, not {batch_size}.")
    make = sampler_class(request.sampler)
    for start in range(0, num, batch_size):
        with torch.inference_mode(), evaluating(model):
            batch = make(model, request, [seed + i for i in range(start, min(start + batch_size, num))])
        while batch.rows:
            done: list[Finished] = []
            halted = False
            with torch.inference_mode(), evaluating(model):
                while not done and not halted:
                    batch.step(watch)
                    done, halted = batch.finish(), stopped()
            yield from (_sample(row, tokenizer) for row in done)
            if halted:
                yield from (_sample(row, tokenizer) for row in batch.unfinished())
                return


def _sample(row: Finished, tokenizer: Tokenizer) -> Sample:
    tokens = row.tokens.tolist()
    return Sample(tokens, tokenizer.decode(tokens), len(tokens), row.nfe, row.stop, row.seed)
