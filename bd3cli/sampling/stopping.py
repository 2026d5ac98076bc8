"""When a sample of variable length ends: at its first EOS, or when it has become repetitive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from bd3cli.data import PackedSplit, Tokenizer

WINDOW = 256  # tokens over which entropy is taken
SHARE = 0.6  # of the training text's median entropy
UPSTREAM_NATS = 4.0  # the published code's threshold, made for GPT-2 tokens


@dataclass(frozen=True)
class StopRule:
    """The first EOS behind all that was given, or low entropy of the last `WINDOW` tokens.

    A sample ends with its EOS. One that has become repetitive ends before the window that shows it. An EOS in
    a hole of a template with given text behind it ends nothing: what is given is never cut off.

    Attributes:
        eos_id: id that ends a document.
        min_entropy: nats under which the last 256 tokens count as repetitive; None turns the rule off.
    """

    eos_id: int
    min_entropy: float | None = None

    def find(self, tokens: Tensor, given: int) -> tuple[int, str] | None:
        """Length to cut final `tokens` [n] to, and why; None to go on. The first `given` stay."""
        ends = (tokens[given:] == self.eos_id).nonzero()
        if len(ends):
            return given + int(ends[0]) + 1, "eos"
        n = len(tokens)
        if self.min_entropy is not None and n - given >= WINDOW and entropy(tokens[n - WINDOW :]) < self.min_entropy:
            return max(given, n - WINDOW), "entropy"
        return None


def entropy(tokens: Tensor) -> float:
    """Entropy in nats of the distribution of token ids within one sequence [n]."""
    counts = tokens.unique(return_counts=True)[1].double()
    probs = counts / counts.sum()
    return float(-(probs * probs.log()).sum())


class _Threshold(TypedDict):
    threshold: float
    rule: str


class EntropyStop(_Threshold, total=False):
    """An entropy threshold in nats and where it comes from; `median` of so many `windows`, where it is computed."""

    median: float
    windows: int


def entropy_rule(split: PackedSplit, tokenizer: Tokenizer, windows: int = 512) -> EntropyStop:
    """The entropy threshold for a run, and where it comes from, for the run record.

    The published code's 4 nats for its tokenizer; else 0.6 of the median entropy of windows of training text
    as long as the rule's (4 nats would end every sample of bytes).

    Args:
        windows: how many are looked at, spread over the split.
    """
    if tokenizer.name == "gpt2":
        return {"threshold": UPSTREAM_NATS, "rule": "the published code's, for gpt2"}
    rows = -(-WINDOW // (split.length - 1))  # contexts that make up a window
    starts = torch.linspace(0, max(0, len(split) - rows), min(windows, len(split))).long().unique()
    found = []
    for start in starts.tolist():
        chosen = list(range(start, min(start + rows, len(split))))
        text = torch.from_numpy(split.tokens(chosen)[:, 1:][split.valid(chosen)[:, 1:]])
        found.append(entropy(text[:WINDOW]))
    median = float(torch.tensor(found, dtype=torch.float64).median())
    return {
        "threshold": SHARE * median,
        "rule": f"{SHARE} of the median entropy of {WINDOW} tokens of training text",
        "median": median,
        "windows": len(found),
    }
