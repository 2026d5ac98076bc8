"""Compare likelihoods of the same tokens: paired differences, and why a pair cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypedDict

from bd3cli.evaluation.intervals import Basis, Mean, bounded_exp, ratio_of_sums
from bd3cli.evaluation.likelihood import Likelihood

# What decides the tokens of a split, in the order in which a difference is best explained.
TOKEN_FACTS = (
    "dataset", "split", "files", "rows", "tokenizer", "tokenizer_fingerprint", "length", "packing", "context",
    "detokenizer", "document",
)  # fmt: skip


class PairedSummary(Basis):
    """A paired difference as plain values; ``ppl_ratio`` is the first perplexity over the second."""

    diff_nats_per_token: float
    ci95: list[float]
    stderr_nats_per_token: float
    p_value: float
    ppl_ratio: float
    ppl_ratio_ci95: list[float]
    diff_bits_per_byte: float | None
    better: float
    sequences: int


class PairedRow(PairedSummary):
    """Two runs on the same tokens; ``p_holm`` is the p-value adjusted for the number of pairs (Holm 1979)."""

    a: str
    b: str
    paired: Literal[True]
    p_holm: float


class UnpairedRow(TypedDict):
    """Two runs on other tokens, and why they cannot be paired."""

    a: str
    b: str
    paired: Literal[False]
    reason: str
    diff_bits_per_byte: float | None


@dataclass(frozen=True)
class Paired:
    """One run minus another over the same sequences.

    Attributes:
        nats_per_token: difference, first minus second; negative when the first is better. Its interval is over
            sequences, as far dependent on each other as the differences or either run's values show, and contains
            the Monte Carlo noise of both.
        bits_per_byte: the same in bits per byte, None when the tokens spell no bytes.
        better: fraction of sequences on which the first has the lower value.
    """

    nats_per_token: Mean
    bits_per_byte: float | None
    better: float

    def summary(self) -> PairedSummary:
        """JSON fields."""
        low, high = self.nats_per_token.ci95
        return {
            "diff_nats_per_token": self.nats_per_token.value,
            "ci95": [low, high],
            "stderr_nats_per_token": self.nats_per_token.stderr,
            "p_value": self.nats_per_token.p_value,
            "ppl_ratio": bounded_exp(self.nats_per_token.value),
            "ppl_ratio_ci95": [bounded_exp(low), bounded_exp(high)],
            "diff_bits_per_byte": self.bits_per_byte,
            "better": self.better,
            "sequences": self.nats_per_token.n,
            **self.nats_per_token.basis(),
        }


def compare(first: Likelihood, second: Likelihood) -> Paired:
    """The paired difference of two likelihoods of the same tokens.

    Raises:
        ValueError: they are of different tokens; `why_not_paired` says so beforehand.
    """
    if first.fingerprint != second.fingerprint or first.sequences != second.sequences:
        raise ValueError("the two likelihoods are of different tokens")
    difference = first.nelbo - second.nelbo
    bits = float(difference.sum()) / math.log(2) / first.bytes if first.bytes else None
    mean = ratio_of_sums(difference, first.tokens, beside=(first.nelbo, second.nelbo))
    return Paired(mean, bits, float((difference < 0).mean()))


def why_not_paired(
    first: Likelihood, second: Likelihood, facts: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})
) -> str | None:
    """None when the two are of the same tokens, else the reason in words.

    Args:
        facts: descriptions of the two splits, to name what differs between them.
    """
    if first.fingerprint == second.fingerprint:
        same = first.sequences == second.sequences
        return None if same else f"{len(first.sequences)} against {len(second.sequences)} sequences of the split"
    for key in TOKEN_FACTS:
        mine, theirs = (f.get(key) for f in facts)
        if mine != theirs:
            shown = f" {mine} against {theirs}" if isinstance(mine, (str, int)) else ""
            return f"other test tokens: {key.replace('_', ' ')}{shown}"
    return f"other test tokens (fingerprints {first.fingerprint[:12]} and {second.fingerprint[:12]})"


def compare_all(
    names: Sequence[str], results: Sequence[Likelihood], facts: Sequence[Mapping[str, Any]]
) -> list[PairedRow | UnpairedRow]:
    """Every pair of runs: its paired difference, or the reason why there is none."""
    rows: list[PairedRow | UnpairedRow] = []
    paired: list[PairedRow] = []
    for i, j in combinations(range(len(results)), 2):
        reason = why_not_paired(results[i], results[j], (facts[i], facts[j]))
        if reason is None:
            found = compare(results[i], results[j]).summary()
            paired.append({"a": names[i], "b": names[j], "paired": True, **found, "p_holm": found["p_value"]})
            rows.append(paired[-1])
        else:
            a, b = results[i].bits_per_byte, results[j].bits_per_byte
            difference = None if a is None or b is None else a - b
            rows.append(
                {"a": names[i], "b": names[j], "paired": False, "reason": reason, "diff_bits_per_byte": difference}
            )
    for row, adjusted in zip(paired, holm([row["p_value"] for row in paired]), strict=True):
        row["p_holm"] = adjusted
    return rows


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: rejecting those below a level keeps the chance of any false one below it."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
