"""Which of two runs models the test text better, and how surely?

python examples/compare_two_runs.py runs/first runs/second

Both are evaluated on the same tokens, so their difference is taken sequence by sequence: its interval is far
narrower than the two intervals of the runs themselves.
"""

from __future__ import annotations

import sys

import bd3cli
from bd3cli.evaluation import compare, why_not_paired


def main(first: str, second: str, sequences: int | None = None) -> None:
    """Compare two run directories on the test split, or on `sequences` sequences of it."""
    runs = [bd3cli.load(path) for path in (first, second)]
    splits = [run.split("test") for run in runs]
    mine, theirs = (run.evaluate(split, sequences=sequences) for run, split in zip(runs, splits, strict=True))

    for path, result in ((first, mine), (second, theirs)):
        low, high = result.nats_per_token_ci95
        print(f"{path}: {result.nats_per_token:.4f} nats a token, 95% interval {low:.4f} to {high:.4f}")

    reason = why_not_paired(mine, theirs, (splits[0].description, splits[1].description))
    if reason is not None:
        sys.exit(f"These two cannot be compared: {reason}.")
    difference = compare(mine, theirs)
    low, high = difference.nats_per_token.ci95
    print(
        f"first - second: {difference.nats_per_token.value:+.4f} nats a token, 95% interval {low:+.4f} to {high:+.4f}"
    )
    print(f"the first is better on {difference.better:.0%} of {len(mine.sequences)} sequences")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
