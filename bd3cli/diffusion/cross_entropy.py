"""Vocabulary projection and cross-entropy in one, a slice of rows at a time.

The logits of all scored tokens would be the largest tensor of the step. Here a slice of rows is projected,
turned into losses and, while it is still in cache, into gradients; it is then forgotten. The arithmetic is
that of the plain version: one product forward, two for the gradients. Under autocast the products are in bfloat16;
what is added up over slices is float32, so that the gradients' error does not grow with their number.

The slices do not know the loss: a `Rule` turns logits into losses. Cross-entropy's is here, the score entropy's
in `bd3cli.diffusion.score_entropy`.

Shapes: M scored tokens, R of them in a slice, d hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

SLICE_BYTES = 32 * 2**20  # of float32 logits held at a time
GROUP = 4  # slices for each product that is not float32 and is added to the weight's float32 gradient


class Rule(Protocol):
    """A loss of logits and targets whose gradient is a nonnegative function of the logits minus the one-hot target."""

    def __call__(self, logits: Tensor, target: Tensor, excluded: int | None) -> tuple[Tensor, Tensor]:
        """The loss of each row [R, 1], and the log of that function [R, V].

        Args:
            logits: [R, V] float32, may be overwritten; target: [R, 1].
            excluded: a token that cannot be predicted (the mask), or None.
        """
        ...


def negative_log_prob(logits: Tensor, target: Tensor, excluded: int | None) -> tuple[Tensor, Tensor]:
    """The `Rule` of cross-entropy: -log softmax, whose gradient is softmax - onehot."""
    if excluded is not None:
        logits[:, excluded] = -torch.inf
    log_probs = logits.log_softmax(-1)
    return -log_probs.gather(1, target), log_probs


def slice_rows(vocab: int) -> int:
    """Rows of float32 logits that fit `SLICE_BYTES`."""
    return max(16, SLICE_BYTES // (4 * vocab))


def token_losses(
    hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, excluded: int | None, rule: Rule = negative_log_prob
) -> Tensor:
    """The loss of each target (-log p), [M] float32, without gradient.

    Args:
        hidden: [M, d]; weight: [V, d]; bias: [V]; target: [M].
        excluded: a token of probability zero (the mask), or None.
    """
    rows = slice_rows(len(weight))
    parts = [
        rule(_logits(h, weight, bias), t.unsqueeze(1), excluded)[0].squeeze(1)
        for h, t in zip(hidden.split(rows), target.split(rows), strict=True)
    ]
    return torch.cat(parts)


def weighted_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Tensor,
    factor: Tensor,
    excluded: int | None,
    rule: Rule = negative_log_prob,
) -> tuple[Tensor, Tensor]:
    """Sum of factor * loss (-log p) over the scored tokens, a float32 scalar with gradient; and the loss of each.

    Args:
        factor: [M] constants; the others as in `token_losses`.

    Returns:
        The sum, and [M] float32 losses without gradient, known anyway.
    """
    kind = hidden.device.type  # autocast does not look inside a custom function
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    out: tuple[Tensor, Tensor] = _WeightedLoss.apply(  # type: ignore[no-untyped-call]
        hidden.to(dtype), weight, bias, target, factor, excluded, rule
    )
    return out


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, hidden, weight.t()).float()


class _WeightedLoss(torch.autograd.Function):
    """The gradients are known as soon as the loss is, up to the scalar that arrives in backward.

    Products are in the type of `hidden`; `weight` and `bias` keep their own, and their gradients have it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        target: Tensor,
        factor: Tensor,
        excluded: int | None,
        rule: Rule,
    ) -> tuple[Tensor, Tensor]:
        rows, count, own = slice_rows(len(weight)), len(target), (weight.dtype, bias.dtype)
        total = hidden.new_zeros((), dtype=torch.float32)
        nll = hidden.new_empty(count, dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = torch.zeros_like(bias, dtype=torch.float32)
        weight, bias = weight.to(hidden.dtype), bias.to(hidden.dtype)
        rounded = hidden.dtype != torch.float32
        if rounded:
            held = hidden.new_empty(min(GROUP * rows, count), len(weight))
            product = torch.empty_like(weight)
        first = 0  # of the rows held
        for start in range(0, count, rows):
            stop = min(start + rows, count)
            part = slice(start, stop)
            h, t, w = hidden[part], target[part].unsqueeze(1), factor[part].unsqueeze(1)
            losses, log_slope = rule(_logits(h, weight, bias), t, excluded)
            total += (losses * w).sum()
            nll[part] = losses.squeeze(1)
            slope = log_slope.exp_().mul_(w)  # d loss / d logits = factor * (exp(log_slope) - onehot)
            slope.scatter_add_(1, t, -w)
            grad_bias += slope.sum(0)
            if rounded:
                slope = held[start - first : stop - first].copy_(slope)
            torch.mm(slope, weight, out=grad_hidden[part])
            if not rounded:
                grad_weight.addmm_(slope.t(), h)
            elif stop == count or stop - first == len(held):  # not addmm_: it would round the running sum each time
                grad_weight += torch.mm(held[: stop - first].t(), hidden[first:stop], out=product)
                first = stop
        ctx.save_for_backward(grad_hidden, grad_weight.to(own[0]), grad_bias.to(own[1]))
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        return grad_hidden * grad, grad_weight * grad, grad_bias * grad, None, None, None, None
