"""Generative perplexity: how likely another model finds generated text.

Low numbers also come from repetition, so the token entropy of the samples belongs beside it. It is measured in
the judge's own tokens: perplexities under judges with different tokenizers cannot be compared.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bd3cli.data.hub_libraries import brief
from bd3cli.errors import InputError
from bd3cli.evaluation.estimators import make_estimator
from bd3cli.evaluation.likelihood import sequence_nelbo
from bd3cli.model import evaluating

if TYPE_CHECKING:
    from bd3cli.data import Tokenizer
    from bd3cli.runs import Run
    from bd3cli.sampling import Sample

WINDOW, STRIDE = 1024, 512  # of judges that can see that far
AT_ONCE = 128  # positions whose logits are held together


@dataclass(frozen=True)
class GenerativePerplexity:
    """A judge's verdict.

    Attributes:
        ppl: exp of nats per judged token.
        tokens: judged tokens over all samples; the first of each is given.
        judge: which model.
        window, stride: tokens the judge sees at once, and by how many it moves on.
        reencoded: whether the text was tokenised again, because judge and model have different tokenizers.
        bound: whether the judge is a diffusion model, whose perplexity is an upper bound.
    """

    ppl: float
    tokens: int
    judge: str
    window: int
    stride: int
    reencoded: bool
    bound: bool

    def summary(self) -> dict[str, object]:
        return asdict(self)


class Judge(ABC):
    """A model that scores token ids.

    Attributes:
        name: as it was asked for.
        fingerprint: of its tokenizer; None when it has none of ours.
        bound: whether its nats are an upper bound.
    """

    name: str
    fingerprint: str | None = None
    bound = False
    window: int
    stride: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`, after the token that starts a text where there is one."""

    @abstractmethod
    def nats(self, ids: list[int]) -> float:
        """-log p of all ids but the first, given it."""

    def judge(self, samples: Sequence[Sample], tokenizer: Tokenizer) -> GenerativePerplexity:
        """The perplexity of samples made with `tokenizer`.

        Raises:
            InputError: there is nothing to judge.
        """
        same = tokenizer.fingerprint == self.fingerprint
        total, tokens = 0.0, 0
        for sample in samples:
            ids = sample.tokens if same else self.encode(sample.text)
            if len(ids) > 1:
                total += self.nats(ids)
                tokens += len(ids) - 1
        if not tokens:
            raise InputError("The samples are empty: there is nothing to judge. Raise --length or --max-length.")
        ppl = math.exp(min(total / tokens, 700.0))
        return GenerativePerplexity(ppl, tokens, self.name, self.window, self.stride, not same, self.bound)


class RunJudge(Judge):
    """A run of this toolkit: exact for ``ar``; for diffusion the NELBO by `count`, context by context."""

    def __init__(self, run: Run) -> None:
        if run.tokenizer is None:
            raise InputError(f"{run.path} is a bare checkpoint without a tokenizer, so it cannot judge text.")
        self.run, self.tokenizer = run, run.tokenizer
        self.name, self.fingerprint = str(run.path), run.tokenizer.fingerprint
        self.window = min(WINDOW, run.config.length)
        self.bound = run.config.traits.likelihood == "bound"
        self.stride = run.config.length - 1 if self.bound else max(1, self.window // 2)
        if self.bound:
            self.window = run.config.length

    def encode(self, text: str) -> list[int]:
        return [self.tokenizer.bos_id, *self.tokenizer.encode(text)]

    def nats(self, ids: list[int]) -> float:
        with evaluating(self.run.model):
            if self.bound:
                return self._nelbo(ids)
            return sliding_nats(ids, self.window, self.stride, self._window_nats)

    def _window_nats(self, window: Tensor) -> Tensor:
        model = self.run.model
        hidden = model(window.unsqueeze(0).to(next(model.parameters()).device))[0, :-1]
        out = []
        for states, targets in zip(hidden.split(AT_ONCE), window[1:].split(AT_ONCE), strict=True):
            logits = model.logits(states).double().cpu()
            if model.config.mask_id is not None:
                logits[:, model.config.mask_id] = -torch.inf
            out.append(-logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1))
        return torch.cat(out)

    def _nelbo(self, ids: list[int]) -> float:
        c, body = self.run.config, self.run.config.length - 1
        parts = [ids[start : start + body] for start in range(1, len(ids), body)]
        tokens = torch.full((len(parts), c.length), self.tokenizer.eos_id)
        valid = torch.zeros(len(parts), c.length, dtype=torch.bool)
        for row, part in enumerate(parts):
            tokens[row, : len(part) + 1] = torch.tensor([self.tokenizer.bos_id, *part])
            valid[row, : len(part) + 1] = True
        scheme = make_estimator("count", c.block_size, len(parts), 1, 0, c.time_conditioning)
        return float(sequence_nelbo(self.run.model, scheme, list(range(len(parts))), tokens, valid, 0).sum())


class HubJudge(Judge):
    """A causal language model of `transformers`, from a local directory or the hub's cache."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise InputError(
                "--judge hf:NAME needs transformers, which is not installed. Install it with: "
                "python -m pip install 'bd3cli[hf]'"
            ) from error
        self.name = f"hf:{name}"
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            model: Any = AutoModelForCausalLM.from_pretrained(name)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(
                f"Judge {name!r} cannot be loaded: {brief(error)}. Give a directory with a causal language model and "
                "its tokenizer, or a name that is in the hub's cache or can be downloaded."
            ) from error
        self._model = model.to(device).eval()
        limit = getattr(self._model.config, "max_position_embeddings", None)
        self.window = min(WINDOW, limit or WINDOW)
        self.stride = max(1, self.window // 2)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self._tokenizer.bos_token_id
        return ids if bos is None else [bos, *ids]

    def nats(self, ids: list[int]) -> float:
        return sliding_nats(ids, self.window, self.stride, self._window_nats)

    def _window_nats(self, window: Tensor) -> Tensor:
        ids = window.unsqueeze(0).to(self._model.device)
        logits = self._model(ids).logits[0, :-1].float().cpu()
        nats: Tensor = -logits.log_softmax(-1).gather(1, window[1:].unsqueeze(1)).squeeze(1).double()
        return nats


def load_judge(name: str, device: str = "auto") -> Judge:
    """The judge called `name`: ``hf:NAME``, or the path of a run.

    Raises:
        InputError: it cannot be loaded.
    """
    from bd3cli.device import choose_device
    from bd3cli.runs import Run

    if name.startswith("hf:"):
        return HubJudge(name.removeprefix("hf:"), str(choose_device(device)))
    return RunJudge(Run.load(name, device=device))


@torch.inference_mode()
def sliding_nats(ids: list[int], window: int, stride: int, score: Callable[[Tensor], Tensor]) -> float:
    """-log p of all ids but the first.

    Each window of at most `window` ids is scored, and of its scores those that no earlier window gave are
    taken: but for the first window, a token has at least `window` - `stride` tokens before it.

    Args:
        score: from ids [n] to -log p [n - 1] of all but the first.
    """
    total, done = 0.0, 1
    for start in range(0, len(ids), stride):
        part = torch.tensor(ids[start : start + window])
        nats = score(part)
        total += float(nats[done - start - 1 :].sum())
        done = start + len(part)
        if done >= len(ids):
            break
    return total
