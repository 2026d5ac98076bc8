"""`block_attention`, and the choice of the backend that computes it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from bd3cli.attention import merged
from bd3cli.attention.merged import MergingBackend
from bd3cli.attention.plan import BlockPlan
from bd3cli.errors import InputError, did_you_mean

BACKENDS = ("reference", "cpu", "xformers", "aten", "flex")
"""Names of the backends; ``auto`` chooses one of them."""

_PREFERRED = {"cpu": ("cpu",), "cuda": ("xformers", "aten")}
_MERGING = ("cpu", "xformers", "aten")


class Backend(Protocol):
    """What every backend's module offers; those that merge parts also `MergingBackend`, others `PlainBackend`."""

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str:
        """Why it cannot run on this device and dtype, or an empty string."""


class PlainBackend(Protocol):
    """Attention that PyTorch differentiates by itself."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan) -> Tensor:
        """The attention; see `block_attention` for the shapes."""


@dataclass(frozen=True)
class Choice:
    """A backend and one sentence saying why it was chosen, for the run record."""

    name: str
    reason: str


def load_backend(name: str) -> Backend:
    """The module of a backend, imported on first use.

    Raises:
        InputError: unknown name.
    """
    if name not in BACKENDS:
        raise InputError(
            f"There is no attention backend {name!r}.{did_you_mean(name, ('auto', *BACKENDS))} "
            f"Choose auto, {', '.join(BACKENDS)}."
        )
    return cast(Backend, import_module(f"bd3cli.attention.{name}"))


def merging_backend(name: str) -> MergingBackend:
    """The module of a backend that merges parts.

    Raises:
        InputError: a backend that does not.
    """
    if name not in _MERGING:
        raise InputError(
            f"Under torch.compile {name} attention must be asked for by name, for the compiler to see into it: "
            f"pass backend={name!r}, or call without torch.compile."
        )
    return cast(MergingBackend, load_backend(name))


def choose_backend(requested: str, device: torch.device, dtype: torch.dtype) -> Choice:
    """The backend for a device and dtype.

    Args:
        requested: one of `BACKENDS`; or ``auto``, for ``cpu`` on a CPU and on CUDA the first of ``xformers``, ``aten``
            and ``reference`` that can run.
        device, dtype: of the queries, keys and values.

    Raises:
        InputError: an unknown backend, or one asked for by name that cannot run here.
    """
    preferred = _PREFERRED.get(device.type, ())
    if requested != "auto":
        why = load_backend(requested).unavailable(device, dtype)
        if why:
            usable = [
                name for name in preferred if name != requested and not load_backend(name).unavailable(device, dtype)
            ]
            instead = usable[0] if usable else "reference"
            raise InputError(f"The {requested} attention backend cannot run: {why} Use auto or {instead}.")
        return Choice(requested, "It was asked for by name.")
    refused = ""
    for name in preferred:
        why = load_backend(name).unavailable(device, dtype)
        if not why:
            return Choice(name, f"It is the fastest that runs on {device.type}.{refused}")
        refused += f" {name} cannot run: {why}"
    return Choice("reference", f"No faster backend runs on {device.type} in {dtype}.{refused}")


def block_attention(q: Tensor, k: Tensor, v: Tensor, *, block_size: int, backend: str = "auto") -> Tensor:
    """Block diffusion attention over a noisy and a clean copy of a sequence of L tokens.

    Softmax attention with scale 1/sqrt(D) under the mask of `bd3cli.attention.plan`, without dropout and
    differentiable in q, k and v. Under autocast the inputs are cast to the autocast dtype, as PyTorch's own
    attention does.

    Args:
        q: [B, 2L, H, D], x_t rows then x_0 rows; or [B, L, H, D], the x_t rows alone (a last layer needs no
            x_0 outputs).
        k, v: [B, 2L, H, D], x_t rows then x_0 rows.
        block_size: L', a divisor of L. L' = L makes each copy attend to itself without a mask.
        backend: one of `BACKENDS` or ``auto``, see `choose_backend`.

    Returns:
        A tensor of the shape of q.

    Raises:
        InputError: shapes, dtypes or devices that do not fit together, a block size that does not divide L,
            or a backend that cannot run.
    """
    device = q.device.type
    if torch.is_autocast_enabled(device) and q.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    plan = plan_for(q, k, v, block_size)
    if torch.compiler.is_compiling() and backend in ("auto", *_MERGING):
        compiled: Tensor = torch.ops.bd3cli.block_attention(q, k, v, block_size, backend)[0]
        return compiled
    choice = choose_backend(backend, q.device, q.dtype)
    with torch.autocast(device, enabled=False):
        if choice.name in _MERGING:
            return merged.attend(q, k, v, plan, merging_backend(choice.name))
        return cast(PlainBackend, load_backend(choice.name)).attend(q, k, v, plan)


def plan_for(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> BlockPlan:
    """The plan of these tensors.

    Raises:
        InputError: when their shapes, dtypes or devices do not fit together.
    """
    seen = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise InputError(f"q, k and v must be [batch, rows, heads, head_dim] and k, v alike, not {seen}.")
    rows, keys = q.shape[1], k.shape[1]
    if keys % 2 or rows not in (keys, keys // 2) or q.shape[:1] + q.shape[2:] != k.shape[:1] + k.shape[2:]:
        raise InputError(
            f"k and v must have 2L rows (x_t then x_0) and q 2L rows, or L for x_t alone, all with the same "
            f"batch, heads and head_dim, not {seen}."
        )
    if len({(x.dtype, x.device) for x in (q, k, v)}) > 1:
        kinds = ", ".join(f"{name} {x.dtype} on {x.device}" for name, x in (("q", q), ("k", k), ("v", v)))
        raise InputError(f"q, k and v must share one dtype and device, not {kinds}; cast or move them first.")
    return BlockPlan(keys // 2, block_size, clean_queries=rows == keys)
