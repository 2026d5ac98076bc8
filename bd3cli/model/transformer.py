"""The diffusion transformer (DiT-style, Peebles & Xie 2023) in the layout of the paper's checkpoints.

Shapes: B batch, L context length, S positions given, H heads, D head_dim, d hidden, c cond_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bd3cli.attention import block_attention
from bd3cli.model.cache import KVCache, Span
from bd3cli.model.config import TransformerConfig
from bd3cli.model.layers import FEW, Embedding, LayerNorm, TimeEmbedding, few_rows, modulate, zero_linear
from bd3cli.model.rotary import Angles, Rotary, interleaved_rows, rotate, split_rotate, turn

Modulation = tuple[Tensor, ...]  # six [B or 1, 1, d] tensors a block, two for the head, none for `ar`


class Block(nn.Module):
    """Pre-norm attention and MLP, each modulated by the time embedding when there is one."""

    adaLN_modulation: nn.Linear  # absent from `ar`
    rows: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.heads, self.dropout = config.heads, config.dropout
        self.norm1 = LayerNorm(d)
        self.attn_qkv = nn.Linear(d, 3 * d, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.norm2 = LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(approximate="tanh"), nn.Linear(4 * d, d))
        if config.traits.modulated:
            self.adaLN_modulation = zero_linear(config.cond_dim, 6 * d)
        rows = interleaved_rows(config.heads, config.head_dim, rotated=2, kept=1)
        self.register_buffer("rows", rows, persistent=False)

    def qkv(self, x: Tensor, modulation: Modulation, angles: Angles) -> tuple[Tensor, ...]:
        """Rotated queries and keys, and values, of [B, S, d]: each [B, S, H, D], pairs interleaved."""
        h = self._normalised(x, modulation)
        return split_rotate(F.linear(h, self.attn_qkv.weight[self.rows]), angles, self.heads)

    def kv(self, x: Tensor, modulation: Modulation, angles: Angles) -> tuple[Tensor, ...]:
        """`qkv` without the queries, for positions whose output nobody reads."""
        h = self._normalised(x, modulation)
        return split_rotate(F.linear(h, self.attn_qkv.weight[self.rows[x.shape[-1] :]]), angles, self.heads)

    def qkv_plain(self, x: Tensor, modulation: Modulation, angles: Angles) -> tuple[Tensor, ...]:
        """`qkv` with the usual order of pairs, as the published code computes it; for comparison."""
        projected = self.attn_qkv(self._normalised(x, modulation))
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).unbind(2)
        return rotate(q, angles), rotate(k, angles), v

    def qkv_few(self, x: Tensor, modulation: Modulation, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """`qkv` of [1, N, d] in the usual order of pairs: for few positions, permuting weights would cost more.

        Each [N, H, D]; `cos` and `sin` come from `Rotary.turns`.
        """
        projected = self.attn_qkv(self._normalised(x, modulation)).view(x.shape[1], 3 * self.heads, -1)
        turning, v = projected.split((2 * self.heads, self.heads), dim=1)
        return *turn(turning, cos, sin).chunk(2, dim=1), v

    def _normalised(self, x: Tensor, modulation: Modulation) -> Tensor:
        h: Tensor = self.norm1(x)
        return modulate(h, modulation[0], modulation[1]) if modulation else h

    def update(self, x: Tensor, attended: Tensor, modulation: Modulation) -> Tensor:
        """Residual stream [B, S, d] after this block, given the attention's output [B, S, H, D]."""
        branch = self.attn_out(attended.flatten(2))
        if not modulation:
            x = x + self._drop(branch)
            return x + self._drop(self.mlp(self.norm2(x)))
        _, _, gate_attn, shift, scale, gate_mlp = modulation
        x = x + gate_attn * self._drop(branch)
        return x + gate_mlp * self._drop(self.mlp(modulate(self.norm2(x), shift, scale)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Head(nn.Module):
    """Final normalisation, modulation and the untied output layer, which starts at zero."""

    adaLN_modulation: nn.Linear  # absent from `ar`

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_final = LayerNorm(config.hidden_size)
        self.linear = zero_linear(config.hidden_size, config.vocab_size)
        if config.traits.modulated:
            self.adaLN_modulation = zero_linear(config.cond_dim, 2 * config.hidden_size)

    def normalise(self, x: Tensor, modulation: Modulation) -> Tensor:
        h: Tensor = self.norm_final(x)
        return modulate(h, *modulation) if modulation else h


class Transformer(nn.Module):
    """The denoising network of every family.

    `forward` returns final hidden states and `logits` turns chosen ones into logits, so that the vocabulary
    projection is only paid for positions that are used.
    """

    def __init__(self, config: TransformerConfig, attention: str = "auto") -> None:
        """`attention` names the backend of `bd3cli.attention` used for block attention."""
        super().__init__()
        self.config = config
        self.attention = attention
        self._folded: list[Modulation] | None = None
        self.vocab_embed = Embedding(config.vocab_size, config.hidden_size)
        if config.traits.modulated:
            self.sigma_map = TimeEmbedding(config.cond_dim)
        self.rotary_emb = Rotary(config.head_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.output_layer = Head(config)

    def forward(self, x_t: Tensor, x_0: Tensor | None = None, sigma: Tensor | None = None) -> Tensor:
        """Hidden states [B, S, d] of the noisy positions.

        Args:
            x_t: [B, S] noisy token ids (``ar``: the clean tokens).
            x_0: [B, S] clean token ids for ``bd3lm`` with more than one block; None otherwise.
            sigma: [B] noise levels, only for networks with `time_conditioning`.
        """
        length, layers = x_t.shape[1], self.layers
        angles = self.rotary_emb(torch.arange(length, device=x_t.device), self.config.heads)
        *modulations, head = self._modulation(sigma, x_t.device)
        if x_0 is None:
            x = self.vocab_embed(x_t)
            for block, modulation in zip(layers, modulations, strict=True):
                q, k, v = (z.transpose(1, 2) for z in block.qkv(x, modulation, angles))
                attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.config.traits.causal)
                x = block.update(x, attended.transpose(1, 2), modulation)
            return self.output_layer.normalise(x, head)

        x = self.vocab_embed(torch.cat((x_t, x_0), dim=1))
        both = angles.twice()
        for block, modulation in zip(layers[:-1], modulations[:-1], strict=True):
            q, k, v = block.qkv(x, modulation, both)
            x = block.update(x, self._block_attention(q, k, v), modulation)
        # Nobody reads the clean half after the last block: it only lends its keys and values.
        noisy, clean = x[:, :length], x[:, length:]
        block, modulation = layers[-1], modulations[-1]
        q, k, v = block.qkv(noisy, modulation, angles)
        k_clean, v_clean = block.kv(clean, modulation, angles)
        attended = self._block_attention(q, torch.cat((k, k_clean), 1), torch.cat((v, v_clean), 1))
        return self.output_layer.normalise(block.update(noisy, attended, modulation), head)

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V] of hidden states [..., d]."""
        few = hidden.ndim == 2 and 1 < len(hidden) <= FEW and hidden.device.type == "cpu"
        if few and not torch.is_grad_enabled():
            return few_rows(hidden, *self.projection)
        out: Tensor = self.output_layer.linear(hidden)
        return out

    @property
    def projection(self) -> tuple[Tensor, Tensor]:
        """Weight [V, d] and bias [V] of the output layer, for losses that never hold all logits."""
        return self.output_layer.linear.weight, self.output_layer.linear.bias

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for `batch` rows.

        Up to the context length it holds `capacity` tokens a row. Longer rows see a window that slides by
        blocks: the last L tokens, the block being denoised included. The keys and values in it stay as they
        were computed, so that what left the window may still act through them.
        """
        c = self.config
        weight = self.output_layer.linear.weight
        cache = KVCache.allocate(c.blocks, batch, c.heads, capacity, c.head_dim, c.block_size, c.length, weight)
        cache.modulation = self.modulation(None, weight.device)
        return cache

    def extend(self, tokens: Tensor, span: Span, cache: KVCache, wanted: Tensor | None = None) -> Tensor:
        """Final hidden states of tokens that follow each row's committed ones.

        A position attends to every position of its own block and of earlier blocks (block size 1: causally),
        as far back as the cache's window. Keys and values are written to the cache but not committed.

        Args:
            tokens: [N] ids of all rows, row after row.
            span: where they stand, from `KVCache.span`.
            wanted: [M] indices of tokens, increasing, whose hidden states are asked for; None for all. Only
                they go through the last layer.

        Returns:
            [M, d], or [N, d].
        """
        device, ends = tokens.device, span.ends
        everyone = cache.queries(span.rows, span.positions, ends).to(device)
        asked = everyone
        if wanted is not None:
            asked = cache.queries(span.rows[wanted], span.positions[wanted], ends).to(device)
            wanted = wanted.to(device)
        cos, sin = (x.to(device) for x in self.rotary_emb.turns(span.positions))
        *modulations, head = cache.modulation
        x = self.vocab_embed(tokens).unsqueeze(0)
        for layer, (block, modulation) in enumerate(zip(self.layers, modulations, strict=True)):
            q, k, v = block.qkv_few(x, modulation, cos, sin)
            queries = everyone
            if wanted is not None and layer == self.config.blocks - 1:
                q, x, queries = q[wanted], x[:, wanted], asked
            attended = cache.attend(layer, q, k, v, span, queries)
            x = block.update(x, attended.unsqueeze(0), modulation)
        return self.output_layer.normalise(x, head).squeeze(0)

    @property
    def layers(self) -> list[Block]:
        """The transformer blocks, typed."""
        return cast("list[Block]", list(self.blocks))

    def _block_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return block_attention(q, k, v, block_size=self.config.block_size, backend=self.attention)

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Compute the modulation once for all forward passes inside, in which no weight may change.

        With time conditioning it depends on the noise level, and is computed as ever.
        """
        assert self._folded is None, "already folded"
        self._folded = []
        try:
            yield
        finally:
            self._folded = None

    def _modulation(self, sigma: Tensor | None, device: torch.device) -> list[Modulation]:
        if self._folded is None or self.config.time_conditioning:
            return self.modulation(sigma, device)
        if not self._folded:
            self._folded = self.modulation(None, device)
        return self._folded

    def modulation(self, sigma: Tensor | None, device: torch.device) -> list[Modulation]:
        """The modulation of every block, then of the head. Without time conditioning one row serves all."""
        if not self.config.traits.modulated:
            return [()] * (self.config.blocks + 1)
        if not self.config.time_conditioning:
            sigma = torch.zeros(1, device=device)
        assert sigma is not None, "a network conditioned on time needs the noise level"
        condition = F.silu(self.sigma_map(sigma)).unsqueeze(1)  # [B or 1, 1, c]
        return [
            *(block.adaLN_modulation(condition).chunk(6, dim=-1) for block in self.layers),
            self.output_layer.adaLN_modulation(condition).chunk(2, dim=-1),
        ]


def expected_tensors(config: TransformerConfig) -> dict[str, Tensor]:
    """The state of such a network by name, on the meta device: shapes and types that take no memory."""
    with torch.device("meta"):
        return Transformer(config, "reference").state_dict()
