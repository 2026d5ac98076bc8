"""A bd3cli run as a model of lm-evaluation-harness (the ``lm-eval`` extra).

Its log-likelihoods are exact for ``ar`` and block size 1; otherwise they are minus the NELBO, a lower bound on
log p estimated by Monte Carlo, and `BD3LM.bound` says so. Tasks that compare or sum log-likelihoods work; tasks that
generate are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bd3cli.errors import InputError
from bd3cli.evaluation.conditional import Request, conditional_nelbo, greedy_matches, windows
from bd3cli.runs import Run

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise InputError("lm-evaluation-harness is not installed. Install the extra: bd3cli[lm-eval].") from error

__all__ = ["BD3LM"]


@register_model("bd3cli")
class BD3LM(LM):  # type: ignore[misc]
    """Scores requests with a run: ``lm_eval.simple_evaluate(BD3LM("runs/mine"), tasks=[...])``.

    Args:
        run: a run directory, or a `Run`.
        estimator, draws, seed: of the NELBO; more draws, less noise.
        batch_size: sequences a forward pass.

    Attributes:
        bound: True when results are lower bounds on log p.
    """

    def __init__(
        self, run: Run | str | Path, estimator: str = "count", draws: int = 8, seed: int = 0, batch_size: int = 32
    ) -> None:
        super().__init__()
        self.run = run if isinstance(run, Run) else Run.load(run)
        if self.run.tokenizer is None:
            raise InputError(f"{self.run.path} names no tokenizer, so text cannot be scored with it.")
        self.tokens = self.run.tokenizer
        self.batch_size = int(batch_size)
        self.options: dict[str, Any] = {"estimator": estimator, "draws": int(draws), "seed": int(seed)}
        self.bound = self.run.config.traits.is_bound(self.run.config.block_size)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log p, is greedy) of each (context, continuation); see `greedy_matches` for what greedy means."""
        scored = [self.request(*instance.args) for instance in requests]
        greedy = greedy_matches(self.run.model, scored, self.tokens.bos_id, batch_size=self.batch_size)
        return [(-nats, bool(same)) for nats, same in zip(self._nelbo(scored).tolist(), greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of each text from its beginning, in windows when it is longer than the model."""
        parts = [windows(self.tokens.encode(instance.args[0]), self.run.config.length) for instance in requests]
        nats = iter(self._nelbo([request for part in parts for request in part]).tolist())
        return [-sum(next(nats) for _ in part) for part in parts]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Refused: tasks that generate are not supported."""
        raise InputError("bd3cli runs only score text in lm-evaluation-harness; choose tasks by log-likelihood.")

    def request(self, context: str, continuation: str) -> Request:
        """Ids of both, split where the ids of the whole text would be."""
        stripped = context.rstrip()
        context, continuation = stripped, context[len(stripped) :] + continuation
        before = self.tokens.encode(context)
        return Request(tuple(before), tuple(self.tokens.encode(context + continuation)[len(before) :]))

    def _nelbo(self, requests: list[Request]) -> Any:
        return conditional_nelbo(
            self.run.model, requests, self.tokens.bos_id, batch_size=self.batch_size, **self.options
        )
