"""What a sampler must do, seen to wherever a class of a plugin defines it: a wrong shape would surface far from here.

Shapes: B rows of a batch, n tokens of a row, b block size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bd3cli.contract import Rule, kind_of

Arguments = tuple[Any, ...]


def started(batch: Any, rows: Any, arguments: Arguments) -> str | None:
    """One row a seed, at least as long as asked for, that begins with the prompt."""
    seeds, request = arguments[0], batch.request
    if not hasattr(rows, "tokens") or not hasattr(rows, "known"):
        return f"returned {kind_of(rows)}; it must return the rows that Rows.start makes"
    tokens = rows.tokens
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.long or tokens.dim() != 2 or len(tokens) != len(seeds):
        return f"returned rows whose tokens are not int64[{len(seeds)}, n]"
    if tokens.shape[1] < request.length:
        return f"returned rows of {tokens.shape[1]} tokens; {request.length} were asked for"
    if tokens[:, : len(request.prompt)].tolist() != [list(request.prompt)] * len(seeds):
        return "returned rows that do not begin with the prompt"
    return None


def stepped(batch: Any, _: Any, __: Arguments) -> str | None:
    """Evaluations counted for every row, and no more known than what has a token."""
    rows = batch.rows
    known, total = rows.known, rows.tokens.shape[1]
    if not bool((rows.nfe > batch._evaluated).all()):
        return "counted no network evaluation for some rows; add to rows.nfe what each took part in"
    if bool(((known < batch._looked) | (known > total)).any()):
        return f"left rows.known at {known.tolist()}; it must not fall, nor pass the {total} tokens of a row"
    for i in (known > batch._looked).nonzero().flatten().tolist():
        new = rows.tokens[i, int(batch._looked[i]) : int(known[i])]
        bad = new[(new < 0) | (new >= batch.model.config.vocab_size) | (new == batch.mask_id)]
        if len(bad):
            what = "the mask" if int(bad[0]) == batch.mask_id else f"{int(bad[0])}, which is no token id"
            return f"said that {int(known[i])} tokens of a row are known, among them {what}"
    return None


def ordered(_: Any, turns: Any, arguments: Arguments) -> str | None:
    """A whole number a position."""
    shape = list(arguments[0].shape)
    if isinstance(turns, Tensor) and list(turns.shape) == shape and turns.dtype == torch.long:
        return None
    return f"returned {_told(turns)}; it must return the turn of each position, int64{shape}"


def accepted(_: Any, chosen: Any, arguments: Arguments) -> str | None:
    """A mask over the positions whose turn it is, with one of each row: otherwise sampling would never end."""
    top = arguments[0]
    shape = list(top.shape)
    if not isinstance(chosen, Tensor) or list(chosen.shape) != shape or chosen.dtype != torch.bool:
        return f"returned {_told(chosen)}; it must return which positions to reveal, bool{shape}"
    due = top >= 0
    if bool((due.any(-1) & ~(chosen & due).any(-1)).any()):
        return "revealed nothing of a block; it must take at least one of the positions whose turn it is (top >= 0)"
    if bool((chosen & ~due).any()):
        return "revealed positions whose turn it is not (top < 0)"
    return None


def levelled(_: Any, level: Any, arguments: Arguments) -> str | None:
    """A mask probability a position."""
    shape = list(arguments[0].shape)
    if isinstance(level, Tensor) and list(level.shape) == shape and level.is_floating_point():
        return None
    return f"returned {_told(level)}; it must return mask probabilities, floating-point{shape}"


def _told(value: Any) -> str:
    if not isinstance(value, Tensor):
        return kind_of(value)
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


PROMISES: dict[str, Rule] = {
    "start": started,
    "step": stepped,
    "order": ordered,
    "accept": accepted,
    "mask_prob": levelled,
}
