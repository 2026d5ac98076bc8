"""log p of a continuation given its context: exact for `ar`, a lower bound from the NELBO otherwise.

A request is laid out as one context of the model: BOS, the context, the continuation, then padding, which is
masked and never scored. Only the tokens of the continuation are ever masked: the estimators count them alone,
so what is estimated is the NELBO of the continuation given all that comes before. A block that holds both sees
its own given tokens in the clear.

For `mdlm`, whose one block is the whole length, padding is masked with it, as in training on padded contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bd3cli.diffusion.batch import autoregressive_batch, masked_batch, token_nll
from bd3cli.errors import InputError
from bd3cli.evaluation.estimators import make_estimator
from bd3cli.maskings import MaskDraw
from bd3cli.model import Transformer, evaluating
from bd3cli.schedules import Noise


@dataclass(frozen=True)
class Request:
    """Tokens to score and tokens they follow; BOS is put in front."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@torch.inference_mode()
def conditional_nelbo(
    model: Transformer,
    requests: Sequence[Request],
    bos_id: int,
    *,
    estimator: str = "count",
    draws: int = 8,
    seed: int = 0,
    batch_size: int = 32,
) -> np.ndarray:
    """Nats of each continuation given its context [n]: exact for ``ar``, else an estimate of an upper bound.

    A request that is longer than the model's length loses the beginning of its context. A request's masks
    depend on the seed and its place in the list only. Dropout is off meanwhile, whatever mode the model is in.

    Raises:
        InputError: an empty continuation or one that is longer than the model, or a network that sees time.
    """
    config = model.config
    if config.time_conditioning:
        raise InputError("A network that sees the noise level cannot score continuations; use ar, mdlm or bd3lm.")
    for request in requests:
        if not 0 < len(request.continuation) < config.length:
            raise InputError(
                f"A continuation has {len(request.continuation)} tokens; a model of length {config.length} scores "
                f"1 to {config.length - 1} of them. Score longer text in windows."
            )
    scheme = None
    if config.traits.masks:
        scheme = make_estimator(estimator, config.block_size, len(requests), draws, seed)
    device = next(model.parameters()).device
    out = []
    for start in range(0, len(requests), batch_size):
        part = list(range(start, min(start + batch_size, len(requests))))
        tokens, valid, free = lay_out([requests[i] for i in part], config.length, bos_id)
        total = torch.zeros(len(part), dtype=torch.float64)
        if scheme is None:
            batch = autoregressive_batch(tokens, free)
            with evaluating(model):
                nll = token_nll(model, batch.to(device))
            total.index_add_(0, batch.row, nll.double().cpu())
        else:
            assert config.mask_id is not None
            for draw in scheme.draws(part, free):
                batch = masked_batch(tokens, valid, draw, config.mask_id, config.block_size)
                with evaluating(model):
                    nll = token_nll(model, batch.to(device))
                total.index_add_(0, batch.row, nll.double().cpu() * batch.weight)
        out.append(total.numpy())
    return np.concatenate(out) if out else np.zeros(0)


@torch.inference_mode()
def greedy_matches(model: Transformer, requests: Sequence[Request], bos_id: int, *, batch_size: int = 32) -> np.ndarray:
    """Whether each continuation [n] is what the model likes best, token by token.

    For ``ar`` of each token after all before it: greedy decoding. Otherwise of all its tokens at once when all of
    them are masked, each block after the clean ones before it: decoding a block in one step.
    """
    config, found = model.config, []
    device = next(model.parameters()).device
    for start in range(0, len(requests), batch_size):
        tokens, valid, free = lay_out(requests[start : start + batch_size], config.length, bos_id)
        if not config.traits.masks:
            batch = autoregressive_batch(tokens, free)
        else:
            assert config.mask_id is not None
            whole = Noise.linear(torch.ones(len(tokens), config.length // config.block_size, dtype=torch.float64))
            batch = masked_batch(tokens, valid, MaskDraw(free, whole), config.mask_id, config.block_size)
        there = batch.to(device)
        with evaluating(model):
            logits = model.logits(model(there.x_t, there.x_0).flatten(0, 1)[there.index]).float()
        if config.mask_id is not None:
            logits[:, config.mask_id] = -torch.inf
        wrong = (logits.argmax(-1) != there.target).cpu()
        found.append(torch.zeros(len(tokens)).index_add_(0, batch.row, wrong.float()).eq(0).numpy())
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)


def lay_out(requests: Sequence[Request], length: int, bos_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [n, L], which of them are there [n, L], and which are the continuation's [n, L]."""
    tokens = torch.full((len(requests), length), bos_id)
    valid, free = (torch.zeros(len(requests), length, dtype=torch.bool) for _ in range(2))
    for row, request in enumerate(requests):
        room = length - 1 - len(request.continuation)
        context = request.context[len(request.context) - min(room, len(request.context)) :]
        end = 1 + len(context) + len(request.continuation)
        tokens[row, 1:end] = torch.tensor([*context, *request.continuation])
        valid[row, :end] = True
        free[row, 1 + len(context) : end] = True
    return tokens, valid, free


def windows(tokens: Sequence[int], length: int) -> list[Request]:
    """A long text as requests that predict each token once, with as much before it as one context holds.

    Each window but the first is given half a context.
    """
    body = length - 1
    step = max(1, body // 2)
    out = [Request((), tuple(tokens[:body]))] if tokens else []
    return out + [
        Request(tuple(tokens[max(0, begin - (body - step)) : begin]), tuple(tokens[begin : begin + step]))
        for begin in range(body, len(tokens), step)
    ]
