"""`bd3cli sample`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, RunArgument, emit_json, notice
from bd3cli.cli.streams import reader_has_left
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from bd3cli.runs import Run
    from bd3cli.sampling import Request, Sample, SampleSet, StopRule
    from bd3cli.studies.judges import GenerativePerplexity

JudgeOption = Annotated[
    str | None, typer.Option(help="Generative perplexity under another run, or hf:NAME.", metavar="RUN|hf:NAME")
]


def sample(
    path: RunArgument,
    num: Annotated[int, typer.Option(help="How many samples.", min=1, metavar="N")] = 1,
    length: Annotated[
        int | None, typer.Option(help="Tokens, BOS and prompt included. [default: the context]", metavar="L")
    ] = None,
    until_eos: Annotated[
        bool, typer.Option("--until-eos", help="End at the first EOS, or when the text has become repetitive.")
    ] = False,
    max_length: Annotated[
        int | None, typer.Option(help="With --until-eos: at most so many tokens. [default: the context]", metavar="M")
    ] = None,
    min_entropy: Annotated[
        float | None,
        typer.Option(help="With --until-eos: nats of 256 tokens that count as repetitive; 0: off. [default: the run's]",
                     min=0, metavar="NATS"),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text every sample starts with.", metavar="TEXT")] = "",
    template: Annotated[
        str | None, typer.Option(help="Text with holes: 'The [MASK:12] sat' has 12 tokens filled in.", metavar="TEXT")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="first-hitting, ancestral, confidence, semi-ar, ar, analytic, or a plugin's. "
                          "[default: the family's]", metavar="NAME"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Time steps of ancestral (a block) and analytic. [default: 64]", metavar="T")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Top probability that confidence accepts. [default: 0.9]", metavar="P")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="New tokens a window of semi-ar. [default: half the context]", metavar="N")
    ] = None,
    nucleus: Annotated[float, typer.Option(help="Smallest token set with this probability.", metavar="P")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Only the K most probable tokens.", metavar="K")] = None,
    temperature: Annotated[
        float, typer.Option(help="Divides the logits; 0: the most probable token.", metavar="T")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Sample i depends on seed + i alone.", metavar="N")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples generated together.", min=1, metavar="N")] = 16,
    cache: Annotated[bool, typer.Option(help="Reuse keys and values; same tokens, faster.")] = True,
    judge: JudgeOption = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write what every evaluation revealed, as JSON lines.", metavar="FILE")
    ] = None,
    live: Annotated[
        bool | None, typer.Option("--live/--no-live", help="Show the denoising. [default: in a terminal]")
    ] = None,
    checkpoint: CheckpointOption = "best",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", metavar="D")] = "auto",
    json: JsonFlag = False,
) -> None:  # fmt: skip
    """Generate text: unconditional, from a prompt, or into the holes of a template.

    Ctrl-C prints what is finished and exits with 130.
    """
    from bd3cli.errors import InputError
    from bd3cli.runs import Run
    from bd3cli.sampling import make_request
    from bd3cli.studies.judges import load_judge

    run = Run.load(path, checkpoint=checkpoint, device=device)
    if run.tokenizer is None:
        raise InputError(f"{path} is a bare checkpoint without a tokenizer, so it cannot be sampled as text.")
    stop = _stop_rule(run, until_eos, length, max_length, min_entropy)
    request = make_request(
        run.model, run.tokenizer, length=max_length if until_eos else length, prompt=prompt, template=template,
        sampler=sampler, nucleus=nucleus, top_k=top_k, temperature=temperature, steps=steps, threshold=threshold,
        stride=stride, stop=stop, cached=cache,
    )  # fmt: skip
    critic = load_judge(judge, device) if judge is not None else None
    show = (sys.stderr.isatty() and sys.stdout.isatty() and not json) if live is None else live
    result = _generate(run, request, num, seed, batch_size, trace, show, json)
    verdict = None
    if critic is not None and not result.interrupted:
        verdict = critic.judge(result.samples, run.tokenizer)
    if json:
        emit_json({"run": str(path), "checkpoint": run.checkpoint, **_document(request, result, verdict)})
    else:
        _summarise(request, result, verdict)
    if result.interrupted and not reader_has_left():
        notice(f"interrupted: {sum(s.stop != 'interrupted' for s in result.samples)} of {num} sample(s) finished")
        raise typer.Exit(130)


def _stop_rule(
    run: Run, until_eos: bool, length: int | None, max_length: int | None, min_entropy: float | None
) -> StopRule | None:
    from bd3cli.errors import InputError

    if until_eos:
        if length is not None:
            raise InputError("--length asks for a fixed length. With --until-eos, bound it by --max-length.")
        return run.stop_rule(min_entropy)
    for option, value in (("--max-length", max_length), ("--min-entropy", min_entropy)):
        if value is not None:
            raise InputError(f"{option} has no effect without --until-eos. Add it, or use --length.")
    return None


def _generate(
    run: Run, request: Request, num: int, seed: int, batch_size: int, trace: Path | None, show: bool, json: bool
) -> SampleSet:
    """Generate, showing on the way what was asked for; texts are printed as they are finished."""
    from bd3cli.cli.view.live import GrowingText, LivePanel, Trace, interruptions
    from bd3cli.sampling import generate
    from bd3cli.sampling.stopping import WINDOW

    assert run.tokenizer is not None
    tracer = Trace(trace)
    watchers = [tracer.watch]
    growing = None
    if num == 1 and not json and not show and not run.tokenizer.name.startswith("hf:"):
        hold = WINDOW if request.stop is not None and request.stop.min_entropy is not None else 0
        growing = GrowingText(run.tokenizer, hold)
        watchers.append(growing.watch)
    waiting: dict[int, Sample] = {}

    def each(item: Sample) -> None:
        """Print samples in the order of their seeds, as soon as their turn has come."""
        waiting[item.seed] = item
        while not (json or show) and (following := waiting.pop(seed + printed[0], None)) is not None:
            printed[0] += 1
            if growing is not None:
                growing.finish(following.tokens)
            else:
                _print_sample(following, num, seed)

    printed = [0]
    try:
        with LivePanel(run.tokenizer, enabled=show, total=num) as panel, interruptions() as received:
            watchers.append(panel.watch)

            def watch(*step: Any) -> None:
                for one in watchers:
                    one(*step)

            result = generate(
                run.model, run.tokenizer, request, num=num, seed=seed, batch_size=batch_size, watch=watch,
                stopped=lambda: bool(received) or reader_has_left(), each=each,
            )  # fmt: skip
    finally:
        tracer.close()
    if not json:
        for item in result.samples[printed[0] :] if show else sorted(waiting.values(), key=lambda s: s.seed):
            _print_sample(item, num, seed)
    return result


def _print_sample(item: Sample, num: int, seed: int) -> None:
    if num > 1:
        index = item.seed - seed
        ending = "" if item.stop == "length" else f", ended by {item.stop}"
        print(f"{'' if index == 0 else chr(10)}--- sample {index + 1} of {num}, seed {item.seed}{ending} ---")
    print(item.text, flush=True)


def _document(request: Request, result: SampleSet, verdict: GenerativePerplexity | None) -> dict[str, object]:
    from bd3cli.rng import STREAM_VERSION

    samples = [
        {"text": s.text, "tokens": s.tokens, "length": s.length, "nfe": s.nfe, "stop": s.stop, "seed": s.seed}
        for s in result.samples
    ]
    document: dict[str, object] = {
        "sampler": request.sampler,
        "stream_version": STREAM_VERSION,
        "samples": samples,
        "tokens_per_second": result.tokens_per_second,
        "nfe": _mean_nfe(result),
        "entropy": result.entropy,
    }
    if request.stop is not None:
        document["min_entropy"] = request.stop.min_entropy
    if verdict is not None:
        document |= {"gen_ppl": verdict.ppl, "judge": verdict.summary()}
    if result.interrupted:
        document["interrupted"] = True
    return document


def _mean_nfe(result: SampleSet) -> float:
    return sum(s.nfe for s in result.samples) / max(1, len(result.samples))


def _summarise(request: Request, result: SampleSet, verdict: GenerativePerplexity | None) -> None:
    lengths = sorted({s.length for s in result.samples}) or [0]
    spread = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    notice(
        f"{len(result.samples)} sample(s) of {spread} tokens, {request.sampler}, {_mean_nfe(result):.0f} network "
        f"evaluations each, {result.tokens_per_second:,.1f} tokens/s, token entropy {result.entropy:.2f} nats"
    )
    if verdict is None:
        return
    print()
    print_table(
        ("sampler", "NFE", "tokens/s", "entropy", "gen. ppl", "judged tokens", "judge"),
        [(request.sampler, f"{_mean_nfe(result):.1f}", f"{result.tokens_per_second:,.1f}", f"{result.entropy:.2f}",
          f"{verdict.ppl:.2f}", verdict.tokens, verdict.judge)],
    )  # fmt: skip
    text = "its own tokens of the text" if verdict.reencoded else "the samples' token ids"
    kind = "; an upper bound, the judge being a diffusion model" if verdict.bound else ""
    notice(f"judged on {text}, windows of {verdict.window} tokens moved by {verdict.stride}{kind}")
