"""One forward pass and what to score in it. Shapes: B sequences, S input positions, M scored tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.diffusion.cross_entropy import Rule, negative_log_prob, token_losses, weighted_loss
from bd3cli.diffusion.score_entropy import score_entropy
from bd3cli.maskings import Drawn, MaskDraw
from bd3cli.model import Transformer


@dataclass(frozen=True)
class Batch:
    """Inputs of the network and the tokens to score, prepared on the CPU so that the device never waits.

    Attributes:
        x_t: [B, S] network input (noisy tokens; for ``ar`` the clean tokens but the last).
        x_0: [B, S] clean tokens for block diffusion with more than one block, else None.
        index: [M] flat positions in B*S whose output is scored.
        target: [M] token ids to predict there.
        weight: [M] factor of each token's loss; float64 here, float32 once moved to a device.
        row: [M] sequence each scored token belongs to.
        drawn: how the blocks were masked, for maskings that learn; None where nothing is, or where nobody asks.
        sigma: [B] noise levels for a network conditioned on time, else None; float32 once moved to a device.
    """

    x_t: Tensor
    x_0: Tensor | None
    index: Tensor
    target: Tensor
    weight: Tensor
    row: Tensor
    drawn: Drawn | None = None
    sigma: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, for the network."""

        def move(x: Tensor) -> Tensor:
            # only pinned memory is copied while the device computes
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return Batch(
            x_t=move(self.x_t),
            x_0=None if self.x_0 is None else move(self.x_0),
            index=move(self.index),
            target=move(self.target),
            weight=move(self.weight.float()),
            row=move(self.row),
            sigma=None if self.sigma is None else move(self.sigma.float()),
        )


def autoregressive_batch(tokens: Tensor, valid: Tensor, weight: Tensor | None = None) -> Batch:
    """Next-token prediction of every valid token [B, L] but the first, which is given.

    `weight` [B, L] multiplies the losses; a token of weight 0 is not scored.
    """
    inputs, scored = tokens[:, :-1], valid[:, 1:]
    if weight is None:
        weight = torch.ones(tokens.shape, dtype=torch.float64)
    row, column = (scored & (weight[:, 1:] > 0)).nonzero(as_tuple=True)
    return Batch(
        x_t=inputs,
        x_0=None,
        index=row * inputs.shape[1] + column,
        target=tokens[row, column + 1],
        weight=weight[row, column + 1],
        row=row,
    )


def masked_batch(
    tokens: Tensor, valid: Tensor, draw: MaskDraw, mask_id: int, block_size: int, sigma: Tensor | None = None
) -> Batch:
    """Prediction of the masked tokens of `tokens` [B, L], each weighted by its block's weight.

    Padding is always masked and never scored: if it showed, it would tell the network where the text ends.
    `sigma` [B] is for networks conditioned on time.
    """
    length = tokens.shape[1]
    row, column = draw.mask.nonzero(as_tuple=True)
    return Batch(
        x_t=tokens.masked_fill(draw.mask | ~valid, mask_id),
        x_0=tokens if block_size < length else None,
        index=row * length + column,
        target=tokens[row, column],
        weight=draw.noise.weight[row, column // block_size],
        row=row,
        sigma=sigma,
    )


def block_sums(value: Tensor, batch: Batch, block_size: int) -> Tensor:
    """Sum over each block's scored tokens of `value` [M], as [B, N] float64 on its device."""
    rows, length = batch.x_t.shape
    sums = value.new_zeros(rows * length // block_size, dtype=torch.float64)
    return sums.index_add_(0, batch.index.to(value.device) // block_size, value.double()).view(rows, -1)


def maskable(valid: Tensor) -> Tensor:
    """Positions [B, L] whose token is predicted: the valid ones but the first (BOS is given)."""
    out = valid.clone()
    out[:, 0] = False
    return out


def token_nll(model: Transformer, batch: Batch) -> Tensor:
    """What every scored token adds to the NELBO over its weight, [M] float32 in nats; no gradient.

    This is -log p under the SUBS parameterization: the mask token has probability zero; unmasked tokens are copied
    and so never scored (Sahoo et al. 2024). For ``sedd`` it is the score entropy, which adds what scores that are
    not normalised cost.
    """
    return token_losses(*_scored(model, batch, model), batch.target, model.config.mask_id, rule(model))


def weighted_nll(
    model: Transformer, batch: Batch, forward: Callable[..., Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of weight * `token_nll` over the scored tokens: a float32 scalar in nats, with gradient; and each of them.

    Args:
        forward: stands in for the model's own forward pass, for example a compiled one.

    Returns:
        The sum, and [M] float32 `token_nll` without gradient.
    """
    scored = _scored(model, batch, model if forward is None else forward)  # a compiled module has no truth value
    return weighted_loss(*scored, batch.target, batch.weight, model.config.mask_id, rule(model))


def rule(model: Transformer) -> Rule:
    """The loss that the network's outputs are trained and evaluated with."""
    return score_entropy if model.config.traits.parameterization == "score" else negative_log_prob


def _scored(model: Transformer, batch: Batch, forward: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [M, d] at the scored positions, and the projection onto the vocabulary."""
    hidden = forward(batch.x_t, batch.x_0, batch.sigma).flatten(0, 1)[batch.index]
    return hidden, *model.projection
