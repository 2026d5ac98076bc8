"""Score entropy (Lou, Meng & Ermon 2024) as a loss of logits, on the slices of `bd3cli.diffusion.cross_entropy`.

At a masked position whose clean token is x_0, with q = 1 / (e^sigma - 1) = (1 - p) / p, it is

    dsigma [ sum over y != m of exp(s_y)  -  q s_{x_0}  +  q (log q - 1) ],    s_y = logit_y + log q - log(V - 1).

Write u_y = s_y - log q = logit_y - log(V - 1), which sigma has left, and dsigma q = p'/(1-p) (1-p)/p = p'/p, the
NELBO weight w of every masked diffusion:

    w [ sum over y of exp(u_y)  -  1  -  u_{x_0} ]  =  w [ -log softmax(u)_{x_0}  +  (Z - 1 - log Z) ],

with Z the sum of exp(u). So the score entropy is the masked NELBO's cross-entropy plus a penalty on scores that are
not normalised, zero at Z = 1 alone. Nothing in it diverges as p -> 1, where dsigma does and q vanishes; and w is
computed as for every other family, so that schedules, maskings and loss weights mean the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def score_entropy(logits: Tensor, target: Tensor, excluded: int | None) -> tuple[Tensor, Tensor]:
    """The `Rule` of the score entropy over its NELBO weight, in nats; its gradient is exp(u) - onehot.

    Equal logits give Z = 1 and the loss log(V - 1), V the mask included.
    """
    u = logits.sub_(math.log(logits.shape[1] - 1))
    if excluded is not None:
        u[:, excluded] = -torch.inf
    return u.exp().sum(-1, keepdim=True) - 1 - u.gather(1, target), u
