"""Short sequences: one softmax over all keys of a row, its probabilities kept for the backward pass.

The queries of a tile of tokens, both copies, attend to the clean keys up to the end of the tile and to the noisy keys
of the tile: one rectangle, with a mask over its last two tiles of keys only. Nothing is merged and nothing is computed
twice, which at L = 128 saves more than the hidden pairs cost. What is kept is at most thrice what the queries hold;
longer sequences, where it would be more, are cut by `bd3cli.attention.cpu.layout`.

Tiles go from the last to the first. The noisy keys of one then take, in scratch, the rows of the clean keys of the
next, which no earlier tile sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bd3cli.attention.cpu.layout import nearest_divisor
from bd3cli.attention.cpu.scratch import Group
from bd3cli.attention.plan import HIDDEN, BlockPlan

_Copies = tuple[Tensor, Tensor]
_TILES, _SMALLEST, _LARGEST = 8, 8, 32
"""Tiles to aim at in a sequence, and the sizes of one in tokens: measured with heads of 64 at L = 128 and 256."""


@dataclass(frozen=True)
class ShortLayout:
    """Tiles of `tile` tokens, a multiple of the block size that divides the length."""

    plan: BlockPlan
    tile: int

    @property
    def rows(self) -> int:
        """Queries of a tile."""
        return self.plan.copies * self.tile

    @property
    def widths(self) -> list[int]:
        """Keys that the queries of each tile attend to."""
        return list(range(2 * self.tile, self.plan.length + self.tile + 1, self.tile))

    @property
    def pairs(self) -> int:
        """Probabilities of one head."""
        return self.rows * sum(self.widths)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """[rows, 2 tile], added to the scores of a tile's clean and noisy keys; the same for every tile."""
        noisy = torch.arange(self.tile)
        clean = noisy + self.plan.length
        queries, keys = torch.cat((noisy, clean))[: self.rows], torch.cat((clean, noisy))
        hidden = ~self.plan.visible(queries[:, None], keys[None, :])
        return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, HIDDEN)

    def queries(self, x: Tensor) -> Tensor:
        """x [B, copies * L, H, D] as a view [tiles, B, H, copies, tile, D]."""
        view: Tensor = x.unflatten(1, (self.plan.copies, -1, self.tile)).permute(2, 0, 4, 1, 3, 5)
        return view

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy and the clean rows of x [B, 2L, H, D] as views [tiles, B, H, tile, D]."""
        noisy, clean = x.unflatten(1, (2, -1, self.tile)).permute(1, 2, 0, 4, 3, 5)
        return noisy, clean

    def probabilities(self, kept: Tensor, group: Group) -> list[list[Tensor]]:
        """For every group the probabilities [G, rows, width] of each tile in `kept` [B * H * pairs].

        Kept by tile, then head, whatever the size of a group: the number of threads may change before they are read.
        """
        heads = kept.numel() // self.pairs
        parts = kept.split([heads * self.rows * width for width in self.widths])
        tiles = (x.view(-1, group.size, self.rows, w).unbind(0) for x, w in zip(parts, self.widths, strict=True))
        return [list(group_tiles) for group_tiles in zip(*tiles, strict=True)]


@lru_cache(maxsize=64)
def short_layout(plan: BlockPlan, dim: int) -> ShortLayout | None:
    """The layout of a plan with heads of `dim`, or None where keeping probabilities does not pay."""
    wanted = min(max(plan.length // _TILES, _SMALLEST), _LARGEST)
    tile = nearest_divisor(plan.length, plan.block_size, wanted, at_least=min(_SMALLEST, plan.length))
    layout = ShortLayout(plan, tile or plan.length)
    fits = tile is not None and tile <= _LARGEST and layout.pairs <= 3 * plan.queries * dim
    return layout if fits else None


class _Keys:
    """Scratch [G, L + tile, D] for keys, values or gradients of either, of one group, and its views by tile."""

    def __init__(self, layout: ShortLayout, group: Group) -> None:
        tile, widths = layout.tile, layout.widths
        self.whole = group.empty(group.size, widths[-1], group.dim)
        self.seen = [self.whole[:, :width] for width in widths]
        self.seen_transposed = [x.mT for x in self.seen]
        self.seen_clean = [x[:, :-tile] for x in self.seen]
        by_head = self.whole.unflatten(0, (group.batch, group.heads))
        self.clean = by_head[:, :, :-tile].unflatten(2, (-1, tile)).movedim(2, 0)
        self.noisy = [by_head[:, :, width - tile : width] for width in widths]


class Short:
    """Scratch for one group of heads, and every view into it that a pass needs: made once, used for each group."""

    def __init__(self, layout: ShortLayout, group: Group) -> None:
        tile, widths, size, dim = layout.tile, layout.widths, group.size, group.dim
        self._scale = dim**-0.5
        self._bias, self._masked = layout.bias(group.dtype), slice(-2 * tile, None)
        self._k, self._v, self._dk, self._dv = (_Keys(layout, group) for _ in range(4))
        rows = [group.empty(len(widths), size, layout.rows, dim) for _ in range(3)]
        # `out` takes the output, then the gradient of the queries.
        self._q, self._grad, self._out = (x.unbind(0) for x in rows)
        by_head = (len(widths), group.batch, group.heads, layout.plan.copies, tile, dim)
        self._q_by_head, self._grad_by_head, self._out_by_head = (x.view(by_head) for x in rows)
        ds, product = group.empty(size * layout.rows * widths[-1]), group.empty(size * widths[-1] * dim)
        self._ds = [ds[: size * layout.rows * width].view(size, layout.rows, width) for width in widths]
        self._product = [product[: size * width * dim].view(size, width, dim) for width in widths]
        self._product_clean = [x[:, :-tile] for x in self._product]
        self._product_noisy = [x[:, -tile:].unflatten(0, (group.batch, group.heads)) for x in self._product]

    def forward(self, q: Tensor, k: _Copies, v: _Copies, out: Tensor, kept: list[Tensor]) -> None:
        """Attention of one group.

        Args:
            q, out: [tiles, b, h, copies, tile, D].
            k, v: noisy and clean rows, [tiles, b, h, tile, D] each.
            kept: for every tile, where its probabilities [G, rows, width] go.
        """
        self._take(q, k, v)
        k_noisy, v_noisy = k[0].unbind(0), v[0].unbind(0)
        for i in reversed(range(len(kept))):
            self._k.noisy[i].copy_(k_noisy[i])
            self._v.noisy[i].copy_(v_noisy[i])
            p = kept[i]
            torch.baddbmm(p, self._q[i], self._k.seen_transposed[i], beta=0, alpha=self._scale, out=p)
            p[..., self._masked].add_(self._bias)
            torch.softmax(p, -1, out=p)
            torch.bmm(p, self._v.seen[i], out=self._out[i])
        out.copy_(self._out_by_head)

    def backward(
        self, grad: Tensor, q: Tensor, k: _Copies, v: _Copies, dq: Tensor, dk: _Copies, dv: _Copies, kept: list[Tensor]
    ) -> None:
        """Gradients of one group; shapes as in `forward`.

        With dP = grad V^T:  dV = P^T grad,  dS = P * (dP - row sums of P * dP),  dQ = dS K,  dK = dS^T Q.
        """
        self._take(q, k, v)
        self._grad_by_head.copy_(grad)
        k_noisy, v_noisy, dk_noisy, dv_noisy = (x[0].unbind(0) for x in (k, v, dk, dv))
        for i in reversed(range(len(kept))):
            self._k.noisy[i].copy_(k_noisy[i])
            self._v.noisy[i].copy_(v_noisy[i])
            p, ds = kept[i], self._ds[i]
            torch.bmm(self._grad[i], self._v.seen_transposed[i], out=ds)
            torch._softmax_backward_data(ds, p, -1, ds.dtype, grad_input=ds)
            self._differentiate_keys(i, p, self._grad[i], 1.0, self._dv, dv_noisy[i])
            self._differentiate_keys(i, ds, self._q[i], self._scale, self._dk, dk_noisy[i])
            torch.baddbmm(self._out[i], ds, self._k.seen[i], beta=0, alpha=self._scale, out=self._out[i])
        dq.copy_(self._out_by_head)
        dk[1].copy_(self._dk.clean)
        dv[1].copy_(self._dv.clean)

    def _take(self, q: Tensor, k: _Copies, v: _Copies) -> None:
        self._q_by_head.copy_(q)
        self._k.clean.copy_(k[1])
        self._v.clean.copy_(v[1])

    def _differentiate_keys(self, i: int, a: Tensor, b: Tensor, scale: float, total: _Keys, noisy: Tensor) -> None:
        """Add scale * a^T b to the gradient of the clean keys that tile i sees, and store that of its noisy keys."""
        if i == len(self._product) - 1:
            torch.baddbmm(total.whole, a.mT, b, beta=0, alpha=scale, out=total.whole)
            noisy.copy_(total.noisy[i])
        else:
            product = self._product[i]
            torch.baddbmm(product, a.mT, b, beta=0, alpha=scale, out=product)
            total.seen_clean[i].add_(self._product_clean[i])
            noisy.copy_(self._product_noisy[i])
