"""The training objective of a recipe: clean tokens in, a weighted scored batch out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bd3cli.diffusion.batch import Batch, autoregressive_batch, maskable, masked_batch
from bd3cli.diffusion.combinations import (
    refuse_ignored,
    refuse_impossible,
    weight_normaliser,
)
from bd3cli.diffusion.conditioning import sequence_sigma
from bd3cli.maskings import Drawn, MaskContext, Masking, MaskNoise, get_masking
from bd3cli.recipes.settings import ObjectiveConfig
from bd3cli.schedules import NoiseSchedule, get_schedule
from bd3cli.weights import LossWeight, get_weight


@dataclass(frozen=True)
class Objective:
    """How training batches are corrupted and weighted. Evaluation never sees one of these.

    Attributes:
        masking, schedule, weight: None for ``ar``, which has nothing to corrupt.
        time_conditioning: whether the network is told the noise level, one a sequence.
    """

    config: ObjectiveConfig
    mask_id: int
    block_size: int
    masking: Masking | None
    schedule: NoiseSchedule | None
    weight: LossWeight | None
    scale: float = 1.0
    token_counts: Tensor | None = None
    time_conditioning: bool = False

    @staticmethod
    def build(
        config: ObjectiveConfig,
        mask_id: int,
        block_size: int,
        token_counts: Tensor | None = None,
        time_conditioning: bool = False,
    ) -> Objective:
        """Instantiate the plugins a recipe names. `token_counts` [V] are those of the training data."""
        if not config.traits.masks:
            return Objective(config, mask_id, 1, None, None, None)
        schedule, weight = get_schedule(config.schedule), get_weight(config.weight)
        masking = get_masking(config.masking)
        refuse_ignored(config, masking)
        refuse_impossible(config, masking, schedule, weight, block_size)
        scale = 1.0
        if config.normalise_weight:
            counted = None if masking.uses_schedule else block_size
            scale = 1 / weight_normaliser(weight, schedule, config.clip, counted)
        timed = time_conditioning or config.traits.needs_time
        return Objective(config, mask_id, block_size, masking, schedule, weight, scale, token_counts, timed)

    def clipped(self, clip: tuple[float, float] | None) -> Objective:
        """The same with another clip.

        Raises:
            InputError: it cannot be trained.
        """
        config = replace(self.config, clip=clip)
        return Objective.build(config, self.mask_id, self.block_size, self.token_counts, self.time_conditioning)

    def batch(self, tokens: Tensor, valid: Tensor, noise: MaskNoise, progress: float) -> Batch:
        """The scored batch for clean `tokens` [B, L].

        Args:
            valid: [B, L] bool, False on padding.
            noise: the randomness of these rows.
            progress: fraction of the training steps done, for schedules that move.
        """
        if self.masking is None or self.schedule is None or self.weight is None:
            return autoregressive_batch(tokens, valid, random_weight(noise) if self.config.random_batch else None)
        context = MaskContext(
            tokens=tokens,
            maskable=maskable(valid),
            block_size=self.block_size,
            schedule=self.schedule.at_progress(progress),
            clip=self.config.clip,
            resample=self.config.resample,
            token_counts=self.token_counts,
        )
        draw = self.masking.draw(noise, context)
        nelbo_weight, weight = draw.noise.weight, self.weight.scaled(draw.noise) * self.scale
        weighted = replace(draw, noise=replace(draw.noise, weight=weight))
        batch = masked_batch(tokens, valid, weighted, self.mask_id, self.block_size)
        drawn = Drawn(
            masked=context.blocks(draw.mask).sum(-1),
            maskable=context.blocks(context.maskable).sum(-1),
            factor=torch.where(nelbo_weight > 0, weight / nelbo_weight, 0.0),
        )
        sigma = None
        if self.time_conditioning:
            sigma = sequence_sigma(draw, context.maskable, noise.level, drew_time=self.masking.uses_schedule)
        return replace(batch, sigma=sigma, drawn=drawn)


def random_weight(noise: MaskNoise) -> Tensor:
    """Weights [B, L] that keep each token with a probability drawn for it uniformly, as L'=1 diffusion masks it.

    Half of the tokens remain on average, with weight 2, so that the loss still estimates the NLL: what is left
    of the difference to block diffusion is not the size of its batches (Arriola et al. 2025, section 4.1).
    """
    return 2.0 * (noise.position < noise.time)
