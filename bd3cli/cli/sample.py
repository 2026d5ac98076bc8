"""`bd3cli sample`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bd3cli.cli.common import CheckpointOption, JsonFlag, RunArgument, emit_json, notice

if TYPE_CHECKING:
    from bd3cli.sampling import Rows


def sample(
    path: RunArgument,
    num: Annotated[int, typer.Option(help="How many samples.", min=1, metavar="N")] = 1,
    length: Annotated[
        int | None, typer.Option(help="Tokens, BOS and prompt included. [default: the context]", metavar="L")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text every sample starts with.", metavar="TEXT")] = "",
    nucleus: Annotated[float, typer.Option(help="Smallest token set with this probability.", metavar="P")] = 1.0,
    temperature: Annotated[float, typer.Option(help="Divides the logits.", metavar="T")] = 1.0,
    seed: Annotated[int, typer.Option(help="Sample i depends on seed + i alone.", metavar="N")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples generated together.", min=1, metavar="N")] = 16,
    cache: Annotated[bool, typer.Option(help="Reuse keys and values; same tokens, faster.")] = True,
    live: Annotated[
        bool | None, typer.Option("--live/--no-live", help="Show the denoising. [default: in a terminal]")
    ] = None,
    checkpoint: CheckpointOption = "best",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", metavar="D")] = "auto",
    json: JsonFlag = False,
) -> None:
    """Generate text: unconditional or from a prompt.

    Block diffusion and MDLM use first-hitting sampling, one token a network evaluation; AR goes left to right.
    """
    from bd3cli.cli.live import LiveTokens
    from bd3cli.errors import InputError
    from bd3cli.runs import Run
    from bd3cli.sampling import generate, make_request

    run = Run.load(path, checkpoint=checkpoint, device=device)
    tokenizer = run.tokenizer
    if tokenizer is None:
        raise InputError(f"{path} is a bare checkpoint without a tokenizer, so it cannot be sampled as text.")
    request = make_request(
        run.model, tokenizer, length=length, prompt=prompt, nucleus=nucleus, temperature=temperature, cached=cache
    )
    show = (sys.stderr.isatty() and sys.stdout.isatty() and not json) if live is None else live

    def draw(rows: Rows) -> str:
        return tokenizer.decode_with_masks(rows.tokens[0].tolist())

    with LiveTokens(draw, enabled=show, rows=min(num, batch_size)) as view:
        result = generate(
            run.model,
            tokenizer,
            request,
            num=num,
            seed=seed,
            batch_size=batch_size,
            watch=view.update,
        )
    if json:
        samples = [
            {"text": s.text, "tokens": s.tokens, "length": s.length, "nfe": s.nfe, "stop": s.stop, "seed": s.seed}
            for s in result.samples
        ]
        emit_json(
            {
                "run": str(path),
                "checkpoint": run.checkpoint,
                "samples": samples,
                "tokens_per_second": result.tokens_per_second,
                "entropy": result.entropy,
            }
        )
        return
    for index, item in enumerate(result.samples):
        if num > 1:
            print(f"{'' if index == 0 else chr(10)}--- sample {index + 1} of {num}, seed {item.seed} ---")
        print(item.text)
    notice(
        f"{num} sample(s) of {request.length} tokens, {result.samples[0].nfe} network evaluations each, "
        f"{result.tokens_per_second:,.1f} tokens/s, token entropy {result.entropy:.2f} nats"
    )
