"""Draw tokens from logits, in float64: float32 noise would quietly act as a lower temperature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.errors import InputError

CELL = 256  # tokens whose weights are summed before the running sum is looked at
AT_ONCE = 1 << 16  # weights held at once: more than the cache holds is several times slower


@dataclass(frozen=True)
class Choice:
    """How a token is drawn from its distribution.

    Attributes:
        nucleus: keep the smallest set of tokens with at least this probability; 1 keeps all. The token that
            crosses the threshold is kept, so the set is never empty (Holtzman et al. 2020).
        top_k: keep this many most probable tokens; None keeps all. Applied before the nucleus, which is then
            measured within them. Of equally probable tokens the ones with lower ids are kept.
        temperature: divides the logits. 0 takes the most probable token, of equally probable ones the one with the
            lowest id: greedy.

    Raises:
        InputError: a value that makes no sense.
    """

    nucleus: float = 1.0
    top_k: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.nucleus <= 1:
            raise InputError(f"nucleus must lie in (0, 1], not {self.nucleus}.")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top-k must be at least 1, not {self.top_k}.")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be 0 (greedy) or a positive number, not {self.temperature}.")


def choose_tokens(
    logits: Tensor, u: Tensor, *, mask_id: int | None, choice: Choice = Choice()
) -> tuple[Tensor, Tensor]:
    """Inverse-distribution sampling: token ids [n] for logits [n, V] and uniforms `u` [n].

    The mask token is never chosen. What the choice keeps is renormalised.

    Returns:
        ids [n], and the probability of the most probable token [n], before anything is left out; under greedy
        choice, where it would always be 1, that of the logits themselves.
    """
    ids, tops = [], []
    rows = max(1, AT_ONCE // logits.shape[-1])
    for start in range(0, len(logits), rows):
        weights, total = _weights(logits[start : start + rows], mask_id, choice.temperature or 1.0)
        tops.append(1 / total)  # the largest weight is 1
        part = u[start : start + rows].to(weights.device)
        if choice.temperature == 0:
            places = torch.arange(weights.shape[-1], device=weights.device)
            ids.append(torch.where(weights == 1, places, weights.shape[-1]).amin(-1))  # the largest weight is 1
        elif choice.nucleus < 1 or choice.top_k is not None:
            ids += [_choose_kept(row, x, choice).unsqueeze(0) for row, x in zip(weights, part, strict=True)]
        else:
            ids.append(inverse(weights, part))
    if not ids:
        return u.long(), u
    return torch.cat(ids), torch.cat(tops)


def _weights(logits: Tensor, mask_id: int | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Float64 weights [n, V], the largest of each row 1, and their sums [n]."""
    wide = logits.double() if logits.device.type != "mps" else logits.cpu().double()  # MPS has no float64
    if wide is logits:
        wide = logits.clone()
    if mask_id is not None:
        wide[:, mask_id] = -torch.inf
    wide -= wide.amax(-1, keepdim=True)
    if temperature != 1:
        wide /= temperature
    wide.exp_()
    return wide, wide.sum(-1)


def _choose_kept(weights: Tensor, u: Tensor, choice: Choice) -> Tensor:
    kept = kept_tokens(weights, choice)
    return kept[inverse(weights[kept].unsqueeze(0), u.unsqueeze(0)).squeeze(0)]


def kept_tokens(weights: Tensor, choice: Choice) -> Tensor:
    """Ids [k] that top-k and the nucleus keep of weights [V], increasing.

    The threshold is found among the largest few weights, and more only when they do not reach it: sorting the
    whole vocabulary takes longer than everything else about a token.
    """
    total = len(weights)
    limit = total if choice.top_k is None else min(choice.top_k, total)
    for few in (64, 1024, total):
        most = min(few, limit)
        largest = weights.topk(most).values if most < total else weights.sort(descending=True).values
        # what the nucleus is measured against: everything, or the top k once they are all at hand
        mass = weights.sum() if limit == total else largest.sum()
        reached = (largest.cumsum(0) >= choice.nucleus * mass).nonzero()
        if most == limit:
            count = int(reached[0]) + 1 if len(reached) and choice.nucleus < 1 else limit
            break
        if limit == total and len(reached):
            count = int(reached[0]) + 1
            break
    least = largest[count - 1]
    ids = (weights >= least).nonzero().flatten()
    surplus = len(ids) - count
    if surplus:  # equally probable tokens at the threshold: the last of them go
        tied = (weights[ids] == least).nonzero().flatten()[-surplus:]
        ids = ids[torch.ones(len(ids), dtype=torch.bool, device=ids.device).index_fill_(0, tied, False)]
    return ids


def inverse(weights: Tensor, u: Tensor) -> Tensor:
    """The first index whose running sum of `weights` [n, V] exceeds `u` [n] of the total; its weight is not 0.

    Running sums are taken of cells of `CELL` weights, then within the cell found.
    """
    n, size = weights.shape
    cells = -(-size // CELL)
    if cells == 1:
        return _inverse(weights, u * weights.sum(-1))
    padded = weights.new_zeros(n, cells * CELL)
    padded[:, :size] = weights
    grid = padded.view(n, cells, CELL)
    sums = grid.sum(-1)
    running = sums.cumsum(-1)
    target = u * running[:, -1]
    cell = _inverse(sums, target, running)
    everyone = torch.arange(n, device=weights.device)
    before = torch.where(cell > 0, running[everyone, (cell - 1).clamp_min(0)], 0.0)
    return cell * CELL + _inverse(grid[everyone, cell], target - before)


def _inverse(weights: Tensor, target: Tensor, running: Tensor | None = None) -> Tensor:
    """The first index whose running sum exceeds `target` [n]; where rounding passes the end, the last weight > 0."""
    running = weights.cumsum(-1) if running is None else running
    index = torch.searchsorted(running, target.unsqueeze(-1), right=True).squeeze(-1)
    places = torch.arange(weights.shape[-1], device=weights.device)
    last = torch.where(weights > 0, places, 0).amax(-1)
    return index.minimum(last)
