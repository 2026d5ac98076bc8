"""`reference`: dense masked attention over all 2L rows. The definition; time and memory quadratic in L."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bd3cli.attention.plan import BlockPlan, dense_mask


def unavailable(device: torch.device, dtype: torch.dtype) -> str:
    """Why this backend cannot run; empty, for it runs everywhere."""
    return ""


def attend(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
    """Attention of q [B, queries, H, D] over k, v [B, 2L, H, D]; the result has the shape of q."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # PyTorch wants [B, H, rows, D]
    # The compiler would trace through the cache, and say so.
    mask = dense_mask(plan, q.device) if torch.compiler.is_compiling() else _mask(plan, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


@lru_cache(maxsize=2)  # a model's layers share one mask, its last layer may have another
def _mask(plan: BlockPlan, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # or a mask first made in inference mode could never be trained with
        return dense_mask(plan, device)
