"""Tensors and plain values as JSON and back, exactly, for what evaluation reads without unpickling.

Lists and dictionaries with text for keys are written as they are. What JSON lacks is an object with one key that
begins with ``$``: ``$tensor``, ``$tuple`` or ``$dict`` (pairs, for other keys).
"""

from __future__ import annotations

import base64
import math
from typing import Any

import torch
from torch import Tensor

MARK = "$"


def to_plain(value: Any) -> Any:
    """`value` as JSON can hold it.

    Raises:
        TypeError: it holds something that is neither a tensor nor a plain value.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) is float:
        return {"$float": repr(value)}
    if isinstance(value, Tensor):
        return {"$tensor": _tensor(value)}
    if isinstance(value, tuple):
        return {"$tuple": [to_plain(item) for item in value]}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith(MARK) for key in value):
            return {key: to_plain(item) for key, item in value.items()}
        return {"$dict": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} is neither a tensor nor a plain value")


def from_plain(value: Any) -> Any:
    """What `to_plain` was given.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, RuntimeError: it never came from there.
    """
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or not next(iter(value)).startswith(MARK):
        return {key: from_plain(item) for key, item in value.items()}
    ((mark, item),) = value.items()
    if mark == "$float":
        return float(item)
    if mark == "$tensor":
        return _read_tensor(item)
    if mark == "$tuple":
        return tuple(from_plain(x) for x in item)
    if mark == "$dict":
        return {from_plain(key): from_plain(x) for key, x in item}
    raise ValueError(f"{mark} marks nothing known")


def _tensor(x: Tensor) -> dict[str, Any]:
    raw = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {
        "dtype": str(x.dtype).removeprefix("torch."),
        "shape": list(x.shape),
        "base64": base64.b64encode(raw).decode("ascii"),
    }


def _read_tensor(item: dict[str, Any]) -> Tensor:
    dtype = getattr(torch, item["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{item['dtype']!r} is no type of tensors")
    raw = bytearray(base64.b64decode(item["base64"], validate=True))
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return flat.reshape(item["shape"])
