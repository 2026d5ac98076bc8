"""`bd3cli bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from bd3cli.cli.bench_intervals import intervals
from bd3cli.cli.bench_maskings import maskings
from bd3cli.cli.common import CheckpointOption, JsonFlag, RunArgument, emit_json, integers
from bd3cli.cli.view.tables import print_table

T = TypeVar("T")
app = typer.Typer(help="Ratios against reference ways of doing the same, in one process.", no_args_is_help=True)
app.command("maskings")(maskings)
app.command("intervals")(intervals)

Length = Annotated[int, typer.Option(help="Context length.", min=2, metavar="L")]
BlockSize = Annotated[int, typer.Option(help="Block size L'.", min=1, metavar="B")]
Hidden = Annotated[int, typer.Option(help="Width.", min=2, metavar="N")]
Blocks = Annotated[int, typer.Option(help="Transformer blocks.", min=1, metavar="N")]
Heads = Annotated[int, typer.Option(help="Attention heads.", min=1, metavar="N")]
Vocab = Annotated[int, typer.Option(help="Vocabulary, the mask included.", min=3, metavar="V")]
Repeats = Annotated[int, typer.Option(help="Interleaved repeats.", min=1, metavar="N")]
Threads = Annotated[int, typer.Option(help="Threads to compute with.", min=1, metavar="N")]
Backend = Annotated[str, typer.Option(help="Block attention backend.", metavar="NAME")]


@app.command()
def attention(
    length: Length = 1024,
    block_size: BlockSize = 4,
    heads: Heads = 8,
    head_dim: Annotated[int, typer.Option(help="Width of a head.", min=2, metavar="N")] = 64,
    batch_size: Annotated[int, typer.Option(help="Sequences.", min=1, metavar="N")] = 4,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.", metavar="T")] = "float32",
    backend: Backend = "auto",
    device: Annotated[str, typer.Option(help="cpu or cuda.", metavar="D")] = "cpu",
    lengths: Annotated[
        str | None,
        typer.Option(help="Instead: growth of memory and time over these lengths, comma-separated.", metavar="L,..."),
    ] = None,
    repeats: Repeats = 7,
    threads: Threads = 1,
    json: JsonFlag = False,
) -> None:
    """Forward and backward of one block attention, against the dense mask."""
    from bd3cli.bench.attention import bench_attention, bench_growth

    if lengths is not None:
        growth = bench_growth(
            integers(lengths, "--lengths"), block_size, heads=heads, head_dim=head_dim, batch=batch_size,
            dtype=dtype, backend=backend, repeats=repeats, threads=threads, device=device,
        )  # fmt: skip
        if json:
            emit_json(growth)
        else:
            _print_growth(growth)
        return
    result = bench_attention(
        length, block_size, heads=heads, head_dim=head_dim, batch=batch_size, dtype=dtype, backend=backend,
        repeats=repeats, threads=threads, device=device,
    )  # fmt: skip
    if json:
        emit_json(result)
        return
    dense = result["reference"]
    low, high = result["ratio_quartiles"]
    rows = [
        (name, f"{1000 * side['seconds']:.1f} ms", f"{side['saved_bytes'] / 2**20:.1f} MiB")
        for name, side in (("reference", dense), (result["backend"], result))
    ]
    print_table(("backend", "forward + backward", "saved for backward"), rows)
    print(f"\nratio {result['ratio']:.2f} ({low:.2f} to {high:.2f}); {result['backend']}: {result['reason']}")
    print(
        f"{result['hardware']}, {result['threads']} thread(s), torch {result['versions']['torch']}\n{result['method']}"
    )


@app.command()
def train(
    length: Length = 128,
    block_size: BlockSize = 4,
    hidden_size: Hidden = 256,
    blocks: Blocks = 4,
    heads: Heads = 4,
    vocab_size: Vocab = 30522,
    batch_size: Annotated[int, typer.Option(help="Sequences a step.", min=1, metavar="N")] = 16,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or both.", metavar="P")] = "both",
    attention: Backend = "auto",
    profile: Annotated[
        bool, typer.Option("--profile", help="Instead: where the time of our step goes, and over its matrix products.")
    ] = False,
    repeats: Repeats = 5,
    threads: Threads = 1,
    json: JsonFlag = False,
) -> None:
    """A whole optimizer step against the paper's research code's way: dense mask, 2L logits, looped optimizer."""
    from bd3cli.bench.train import bench_train, profile_train
    from bd3cli.errors import InputError

    if precision not in ("fp32", "bf16", "both"):
        raise InputError(f"precision cannot be {precision!r}. Choose fp32, bf16 or both.")
    measure = profile_train if profile else bench_train
    result = measure(
        length=length, block_size=block_size, hidden_size=hidden_size, blocks=blocks, heads=heads,
        vocab_size=vocab_size, batch_size=batch_size, precision=precision, attention=attention, repeats=repeats,
        thread_count=threads,
    )  # fmt: skip
    if json:
        emit_json(result)
        return
    if profile:
        _print_profile(result)
        return
    ratios, same = result["ratio"], result["ratio_same_precision"]
    rows = [
        (
            name,
            f"{result['seconds'][f'ours_{name}']:.3f} s",
            f"{result['seconds'][f'reference_{name}']:.3f} s",
            _spread(ratios[name]),
            _spread(same[name]),
        )
        for name in ratios
    ]
    print_table(("precision", "ours", "reference", "over the fp32 reference", "over the same precision"), rows)
    _print_environment(result)


@app.command()
def sample(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Sweep the samplers of this run; without one, time random weights."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Judge of the sweep: RUN or hf:NAME.", metavar="RUN|hf:NAME")
    ] = None,
    samplers: Annotated[str | None, typer.Option(help="Sweep: names. [default: all that fit]", metavar="A,B")] = None,
    steps: Annotated[
        str, typer.Option(help="Sweep: time steps of ancestral and analytic.", metavar="T,T")
    ] = "1,4,16,64",
    thresholds: Annotated[str, typer.Option(help="Sweep: of confidence.", metavar="P,P")] = "0.5,0.7,0.9",
    nucleus: Annotated[str, typer.Option(help="Sweep: nuclei.", metavar="P,P")] = "0.9,1",
    num: Annotated[int, typer.Option(help="Sweep: samples a row.", min=1, metavar="N")] = 8,
    seed: Annotated[int, typer.Option(help="Sweep: of the first sample.", metavar="N")] = 0,
    family: Annotated[str, typer.Option(help="bd3lm or ar.", metavar="NAME")] = "bd3lm",
    length: Annotated[
        int | None, typer.Option(help="Tokens. [default: the run's context, else 1024]", min=2, metavar="L")
    ] = None,
    block_size: BlockSize = 4,
    hidden_size: Hidden = 256,
    blocks: Blocks = 4,
    heads: Heads = 4,
    vocab_size: Vocab = 50258,
    batch_size: Annotated[int, typer.Option(help="Rows of the batch.", min=1, metavar="N")] = 8,
    repeats: Repeats = 3,
    last: Annotated[
        int | None, typer.Option(help="Time the cached sampler over so many last tokens only.", min=2, metavar="N")
    ] = None,
    threads: Threads = 1,
    checkpoint: CheckpointOption = "best",
    json: JsonFlag = False,
) -> None:
    """Tokens a second with and without the cache, and of a batch; of a RUN, quality against evaluations.

    With RUN and --judge: sampler x steps or threshold x nucleus, each with network evaluations (NFE), tokens/s,
    token entropy and generative perplexity.
    """
    if path is not None:
        _sweep(
            path, judge, samplers, steps, thresholds, nucleus, length, num, batch_size, seed, threads, checkpoint, json
        )
        return
    from bd3cli.bench.sample import bench_sample
    from bd3cli.errors import InputError
    from bd3cli.recipes.families import FAMILIES, listed

    if judge is not None or samplers is not None:
        raise InputError("--judge and --samplers belong to a sweep. Name the RUN to sweep.")
    length = 1024 if length is None else length
    cached = [f for f in FAMILIES.values() if f.blocks != "whole"]  # the others keep nothing from block to block
    if family not in [f.name for f in cached]:
        raise InputError(f"family cannot be {family!r}. Choose {listed(cached)}.")
    if length <= 64:
        raise InputError(f"length must be more than 64 to time the last 32 tokens, not {length}.")
    if last is not None and last >= length:
        raise InputError(f"--last {last} must be less than the length {length}.")
    result = bench_sample(
        family=family, length=length, block_size=block_size, hidden_size=hidden_size, blocks=blocks, heads=heads,
        vocab_size=vocab_size, batch_size=batch_size, repeats=repeats, thread_count=threads, last=last,
    )  # fmt: skip
    if json:
        emit_json(result)
        return
    rows = [(name, f"{rate:,.1f}") for name, rate in result["tokens_per_second"].items()]
    print_table(("sampler", "tokens/s"), rows)
    print(f"\ncached over uncached {result['ratio']['cached_over_uncached']:.2f}, "
          f"batch of {batch_size} over single {result['ratio']['batch_over_single']:.2f}")  # fmt: skip
    _print_environment(result)


def _sweep(
    path: Path, judge: str | None, samplers: str | None, steps: str, thresholds: str, nucleus: str, length: int | None,
    num: int, batch_size: int, seed: int, threads: int, checkpoint: str, json: bool,
) -> None:  # fmt: skip
    from bd3cli.bench.sample_sweep import sweep
    from bd3cli.errors import InputError
    from bd3cli.runs import Run
    from bd3cli.studies.judges import load_judge

    if judge is None:
        raise InputError("A sweep needs a judge of quality. Add --judge RUN (an ar run, say) or --judge hf:NAME.")
    result = sweep(
        Run.load(path, checkpoint=checkpoint), load_judge(judge), samplers=samplers.split(",") if samplers else None,
        steps=_listed("steps", steps, int), thresholds=_listed("thresholds", thresholds, float),
        nuclei=_listed("nucleus", nucleus, float), length=length, num=num, batch_size=batch_size, seed=seed,
        thread_count=threads,
    )  # fmt: skip
    if json:
        emit_json(result)
        return
    rows = [
        (row["sampler"], row.get("steps", row.get("threshold", "-")), f"{row['nucleus']:g}", f"{row['nfe']:.1f}",
         f"{row['tokens_per_second']:,.1f}", f"{row['entropy']:.2f}", f"{row['gen_ppl']:.2f}")
        for row in result["rows"]
    ]  # fmt: skip
    print_table(("sampler", "steps or threshold", "nucleus", "NFE", "tokens/s", "entropy", "gen. ppl"), rows)
    bound = " (an upper bound)" if result["rows"][0]["bound"] else ""
    print(f"\ngenerative perplexity under {result['judge']}{bound}; {result['rows'][0]['length']} tokens a sample")
    _print_environment(result)


def _listed(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    from bd3cli.errors import InputError

    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"--{option} {text!r} must be numbers separated by commas.") from error


@app.command("eval")
def evaluate(
    path: RunArgument,
    sequences: Annotated[int, typer.Option(help="Test sequences.", min=2, metavar="N")] = 256,
    draws: Annotated[int, typer.Option(help="Forward passes a sequence.", min=1, metavar="N")] = 1,
    seeds: Annotated[int, typer.Option(help="Repeats with other masks.", min=2, metavar="N")] = 20,
    checkpoint: CheckpointOption = "best",
    json: JsonFlag = False,
) -> None:
    """Monte Carlo error of the estimators, same sequences, equal forward passes."""
    from bd3cli.bench.evaluate import bench_evaluate
    from bd3cli.runs import Run

    result = bench_evaluate(Run.load(path, checkpoint=checkpoint), sequences=sequences, draws=draws, seeds=seeds)
    if json:
        emit_json(result)
        return
    ratios = result["ratios"]
    rows = [
        (
            name,
            f"{e['nats_per_token']:.4f} ({e['ci95'][0]:.4f} to {e['ci95'][1]:.4f})",
            f"{e['mc_stderr']:.5f}",
            f"{ratios[name]['mc_stderr']:.2f}" if name in ratios else "1",
            f"{e['mc_stderr_by_sequence']:.5f}",
            f"{ratios[name]['mc_stderr_by_sequence']:.2f}" if name in ratios else "1",
            f"{e['passes_for_1_percent']:.2f}",
        )
        for name, e in result["estimators"].items()
    ]
    columns = ("estimator", "nats/token, 95% of the mean", "Monte Carlo error", "below uniform by", "by sequence",
               "below uniform by", "passes for 1% of ppl")  # fmt: skip
    print_table(columns, rows)
    print(f"\nRatios over seeds are themselves known to {100 * result['ratio_relative_error']:.0f}%.")
    _print_environment(result)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _print_growth(result: dict[str, Any]) -> None:
    first = result["rows"][0]
    rows = [
        (
            f"{row['length']:,}",
            f"{row['saved_bytes'] / 2**20:.1f} MiB",
            f"{row['saved_bytes'] / row['length'] / 2**10:.2f} KiB",
            f"{row['peak_bytes'] / 2**20:.1f} MiB",
            f"{1000 * row['seconds']:.1f} ms",
            f"{row['seconds'] / first['seconds']:.1f}",
        )
        for row in result["rows"]
    ]
    head = ("length", "saved for backward", "a token", "peak", "forward + backward", f"over L={first['length']}")
    print_table(head, rows)
    print(
        f"\n{result['backend']}: {result['reason']}\n{result['hardware']}, {result['threads']} thread(s), "
        f"torch {result['versions']['torch']}\n{result['method']}"
    )


def _print_profile(result: dict[str, Any]) -> None:
    for name, found in result["profile"].items():
        whole = found["seconds"]
        rows = [(part, f"{s:.3f} s", f"{100 * s / whole:.1f}%") for part, s in found["parts"].items()]
        print_table((f"{name} step", "time", "share"), [*rows, ("whole step", f"{whole:.3f} s", "100.0%")])
        flops, alone, rate = (found[key] for key in ("gemm_flops", "gemm_seconds", "gemm_flops_per_second"))
        print(f"\n{flops / 1e9:.1f} GFLOP of matrix products, alone {alone:.3f} s ({rate / 1e9:.1f} GFLOP/s): "
              f"the step takes {found['over_gemm']:.2f} times that.\n")  # fmt: skip
    print(f"Drawing the masks of a batch, in a thread of its own: {1000 * result['data_seconds']:.1f} ms.")
    _print_environment(result)


def _print_environment(result: dict[str, Any]) -> None:
    where = result["environment"]
    print(f"\n{where['processor']}, {where['threads']} thread(s), torch {where['torch']}\n{where['method']}")
