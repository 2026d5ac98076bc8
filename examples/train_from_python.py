"""Train a model, evaluate it and sample from it, in one Python program.

python examples/train_from_python.py runs/from-python train.steps=200
"""

from __future__ import annotations

import sys
from pathlib import Path

import bd3cli
from bd3cli.recipes.resolve import resolve
from bd3cli.sampling import generate, make_request
from bd3cli.training.loop import train


def main(out: str, *settings: str) -> None:
    """Train the `tiny` recipe with `settings` (``section.key=value``) in the new directory `out`."""
    result = train(resolve("tiny", overrides=settings), Path(out))
    print(f"{result.status} after {result.step} steps")

    run = bd3cli.load(out)  # the best checkpoint, averaged weights
    likelihood = run.evaluate(run.split("test"))
    low, high = likelihood.nats_per_token_ci95
    print(f"test: {likelihood.nats_per_token:.3f} nats a token, 95% interval {low:.3f} to {high:.3f}")

    assert run.tokenizer is not None, "a run that was trained here has its tokenizer"
    request = make_request(run.model, run.tokenizer, prompt="The ", nucleus=0.9)
    for sample in generate(run.model, run.tokenizer, request, num=2, seed=1).samples:
        print(f"seed {sample.seed}, {sample.nfe} network evaluations: {sample.text!r}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
