"""SEDD's analytic sampler: Tweedie tau-leaping (Lou, Meng & Ermon 2024, section 4 and appendix).

From noise level sigma_t to sigma_s, with d = sigma_t - sigma_s and concrete scores s_y at sigma_t, a masked
token becomes y with probability (e^d - 1) s_y and stays masked with what is left. The last step goes to sigma
= 0, where nothing stays masked. Exact scores make this the reverse process whose positions do not wait for
each other within a step, so the error vanishes as the number of steps grows.
"""

from __future__ import annotations

import math

import torch

from bd3cli.diffusion.conditioning import noise_level
from bd3cli.diffusion.sedd import log_scores
from bd3cli.sampling.base import LOGITS_AT_ONCE, Batch, Rows, Watch
from bd3cli.sampling.choose import choose_tokens


class Analytic(Batch):
    """`steps` evaluations of the whole sequence at mask probabilities 1, 1 - 1/T, ..., 1/T; fewer when no mask is left.

    The choice of tokens (nucleus, top-k, temperature) shapes which token a position gets, not when.
    """

    families = ("sedd",)
    reads = ("steps",)
    done = 0  # steps so far, the same for all rows

    def start(self, seeds: list[int]) -> Rows:
        return Rows.start(seeds, self.request.prompt, self.model.config.length, self.mask_id)

    def step(self, watch: Watch) -> None:
        rows, steps = self.rows, self.request.steps
        at = 1 - torch.tensor([self.done, self.done + 1], dtype=torch.float64) / steps
        sigma, following = noise_level(at).tolist()
        self.done += 1
        masked = rows.tokens == self.mask_id
        row, place = masked.nonzero(as_tuple=True)
        u = rows.uniform(2 * masked.shape[1]).view(len(rows), 2, -1)
        level = torch.full((len(rows),), sigma, device=self.device)
        hidden = self.model(rows.tokens.to(self.device), None, level)[row.to(self.device), place.to(self.device)]
        revealed, tokens = [], []
        for part in torch.arange(len(row)).split(LOGITS_AT_ONCE):
            x_t = torch.full((len(part), 1), self.mask_id, device=self.device)
            scores = log_scores(self.model.logits(hidden[part]).unsqueeze(1), x_t, level[:1].expand(len(part)))
            scores = scores.squeeze(1).cpu().double()
            scores[:, self.mask_id] = -torch.inf
            now = u[row[part], 0, place[part]] < math.expm1(sigma - following) * scores.logsumexp(-1).exp()
            if self.done == steps:
                now[:] = True
            part = part[now]
            new, _ = choose_tokens(
                scores[now], u[row[part], 1, place[part]], mask_id=self.mask_id, choice=self.request.choice
            )
            revealed.append(part)
            tokens.append(new)
        chosen = torch.cat(revealed)
        rows.tokens[row[chosen], place[chosen]] = torch.cat(tokens)
        rows.nfe += 1
        watch(rows, row[chosen], place[chosen])
        rows.known[(rows.tokens != self.mask_id).all(-1)] = masked.shape[1]
