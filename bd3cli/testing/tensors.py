"""Laws shared by schedules and weights: what their functions do to tensors, beyond the numbers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bd3cli.testing.law import Outcome

Functions = Mapping[str, Callable[[Tensor], Tensor]]
SAME = 1e-9


def elementwise(functions: Functions) -> Outcome:
    """Each value depends on its own input only, not on its neighbours in the batch."""
    t = torch.tensor([[0.11, 0.93, 0.53], [0.27, 0.62, 0.08]], dtype=torch.float64)
    for name, function in functions.items():
        together = function(t)
        apart = torch.stack([function(x.reshape(1)) for x in t.flatten()]).view(t.shape)
        gap = ((together - apart).abs() / (apart.abs() + 1e-300)).flatten()
        i = int(gap.argmax())
        if not bool(gap[i] <= SAME):
            return False, (
                f"{name} gives {together.flatten()[i]:.6g} for entry {i} of a batch, but "
                f"{apart.flatten()[i]:.6g} for the same entry alone. Compute every entry from its own input."
            )
    return True, "every entry depends on its own input only"


def tensors(functions: Functions, devices: Sequence[str] | None = None) -> Outcome:
    """Dtype, device and shape of the input are those of the output, and the input is left alone.

    Args:
        devices: where to look; None for every kind there is.
    """
    if devices is None:
        devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device in devices:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for shape in ((), (0,), (5,), (2, 3)):
                t = torch.full(shape, 0.375, dtype=dtype, device=device)
                before = t.clone()
                for name, function in functions.items():
                    out = function(t)
                    if (out.dtype, out.shape, out.device) != (t.dtype, t.shape, t.device):
                        return False, (
                            f"{name} turns {_signature(t)} into {_signature(out)}. Return a tensor like the input: "
                            "compute in float64 inside if you must, then convert back."
                        )
                    if not torch.equal(t, before):
                        return False, f"{name} changes its input in place. Work on a new tensor."
    return True, f"float64, float32 and bfloat16 preserved on {' and '.join(devices)}"


def compiles(functions: Functions) -> Outcome:
    """torch.compile captures every function in one graph, and the values stay the same."""
    t = torch.linspace(0.05, 0.94, 7, dtype=torch.float64)
    try:
        for name, function in functions.items():
            torch._dynamo.reset()
            compiled = torch.compile(lambda x, f=function: f(x), backend="eager", fullgraph=True)
            gap = float((compiled(t) - function(t)).abs().max())
            if not gap <= SAME:
                return False, f"{name} changes by {gap:.2g} under torch.compile. Avoid hidden state."
    finally:
        torch._dynamo.reset()
    return True, f"{', '.join(functions)} compile into one graph each"


def pickles(instance: Any) -> Outcome:
    """An instance survives pickling, as loading data in other processes needs."""
    copy = pickle.loads(pickle.dumps(instance))
    if copy != instance:
        return False, f"{instance} becomes {copy} when pickled. Keep all state in dataclass fields."
    return True, "equal after a round trip"


def _signature(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)} on {x.device}"
