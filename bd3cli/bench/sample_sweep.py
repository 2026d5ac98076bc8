"""`bench sample RUN`: quality against network evaluations, over samplers, their settings and nuclei."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bd3cli.bench.timing import environment, threads
from bd3cli.errors import InputError
from bd3cli.runs import Run
from bd3cli.sampling import Request, generate, make_request, sampler_class
from bd3cli.sampling import samplers as serving
from bd3cli.sampling.registry import choose_sampler
from bd3cli.studies.judges import Judge


def sweep(
    run: Run,
    judge: Judge,
    *,
    samplers: Sequence[str] | None = None,
    steps: Sequence[int] = (),
    thresholds: Sequence[float] = (),
    nuclei: Sequence[float] = (1.0,),
    length: int | None = None,
    num: int = 8,
    batch_size: int = 8,
    seed: int = 0,
    thread_count: int = 1,
) -> dict[str, Any]:
    """One row for every sampler, each of the settings it reads, and nucleus; the same seeds in each.

    Args:
        samplers: names; None for all that serve the run's family.
        steps, thresholds: tried by the samplers that read them; samplers take their default from an empty list.
    """
    if run.tokenizer is None:
        raise InputError(f"{run.path} is a bare checkpoint without a tokenizer, so it cannot be sampled as text.")
    family = run.config.family
    rows = []
    with threads(thread_count):
        for name in [choose_sampler(run.config, n) for n in samplers or serving(family)]:
            options = sampler_class(name).reads
            settings: list[dict[str, Any]] = [{}]
            if "steps" in options and steps:
                settings = [{"steps": value} for value in steps]
            if "threshold" in options and thresholds:
                settings = [{"threshold": value} for value in thresholds]
            for setting in settings:
                for nucleus in nuclei:
                    request = make_request(
                        run.model, run.tokenizer, length=length, sampler=name, nucleus=nucleus, **setting
                    )
                    rows.append(_row(run, judge, request, setting, num, batch_size, seed))
        where = environment()
    return {
        "run": str(run.path),
        "family": family,
        "judge": judge.name,
        "num": num,
        "batch_size": batch_size,
        "rows": rows,
        "environment": where | {"method": f"{num} samples a row, seeds from {seed} on, one run each"},
    }


def _row(
    run: Run, judge: Judge, request: Request, setting: dict[str, Any], num: int, batch_size: int, seed: int
) -> dict[str, Any]:
    assert run.tokenizer is not None
    made = generate(run.model, run.tokenizer, request, num=num, seed=seed, batch_size=batch_size)
    verdict = judge.judge(made.samples, run.tokenizer)
    return {
        "sampler": request.sampler,
        **setting,
        "nucleus": request.choice.nucleus,
        "length": request.length,
        "nfe": sum(s.nfe for s in made.samples) / num,
        "tokens_per_second": made.tokens_per_second,
        "entropy": made.entropy,
        "gen_ppl": verdict.ppl,
        "bound": verdict.bound,
        "reencoded": verdict.reencoded,
    }
