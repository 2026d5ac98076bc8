"""Measurements of one attention, forward and backward, against the dense reference in the same process."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bd3cli.attention.dispatch import block_attention, choose_backend
from bd3cli.bench.allocator import keep_freed_memory
from bd3cli.device import processor_name
from bd3cli.errors import InputError

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bench_attention(
    length: int,
    block_size: int,
    *,
    heads: int = 8,
    head_dim: int = 64,
    batch: int = 4,
    dtype: str = "float32",
    backend: str = "auto",
    repeats: int = 20,
    threads: int = 1,
    device: str = "cpu",
    noisy_queries_only: bool = False,
) -> dict[str, Any]:
    """Time a backend's forward and backward passes beside those of ``reference``.

    Args:
        length, block_size: L, and L' that divides it.
        heads, head_dim, batch: H, D and B of q, k, v [B, 2L, H, D].
        dtype: float32, float64, bfloat16 or float16, of the reference too.
        backend: see `choose_backend`.
        repeats: timed pairs of runs, after one untimed pair.
        threads: intra-op CPU threads, restored afterwards.
        device: ``cpu`` or ``cuda``.
        noisy_queries_only: whether queries are x_t alone, [B, L, H, D].

    Returns:
        A JSON-ready dictionary: ``ratio`` (median reference seconds over median backend seconds) and its quartiles
        over the pairs; seconds, saved-for-backward and peak bytes of both; hardware, versions and method.

    Raises:
        InputError: sizes, a dtype or a backend that cannot be measured.
    """
    _check(dtype, length, heads, head_dim, batch, repeats, threads)
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        choice = choose_backend(backend, torch.device(device), _DTYPES[dtype])
        inputs = _inputs(length, heads, head_dim, batch, _DTYPES[dtype], device, noisy_queries_only)
        runs = {name: _Run(name, block_size, inputs) for name in ("reference", choice.name)}
        for _ in range(repeats + 1):  # interleaved, so that what else the machine does hits both
            for run in runs.values():
                run.measure()
        reference, measured = runs["reference"], runs[choice.name]
        return {
            "length": length,
            "block_size": block_size,
            "heads": heads,
            "head_dim": head_dim,
            "batch": batch,
            "dtype": dtype,
            "noisy_queries_only": noisy_queries_only,
            "backend": choice.name,
            "reason": choice.reason,
            "ratio": median(reference.seconds) / median(measured.seconds),
            "ratio_quartiles": _quartiles([r / m for r, m in zip(reference.seconds, measured.seconds, strict=True)]),
            **measured.report(),
            "reference": reference.report(),
            "repeats": repeats,
            "threads": threads,
            "device": device,
            **_where(device),
            "method": "forward and backward of the attention alone, seeded normal inputs, runs of the reference and "
            "the backend interleaved after one untimed run of each; ratio of median wall-clock times; freed memory "
            "stays with the process",
        }
    finally:
        torch.set_num_threads(before)


def bench_growth(
    lengths: list[int],
    block_size: int,
    *,
    heads: int = 8,
    head_dim: int = 64,
    batch: int = 4,
    dtype: str = "float32",
    backend: str = "auto",
    repeats: int = 7,
    threads: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """How a backend's memory and time grow with the length, without the reference; arguments as `bench_attention`.

    Returns:
        ``rows`` of ``length``, ``seconds``, ``saved_bytes`` (for the backward pass) and ``peak_bytes``.

    Raises:
        InputError: sizes, a dtype or a backend that cannot be measured.
    """
    _check(dtype, *lengths, heads, head_dim, batch, repeats, threads)
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        choice = choose_backend(backend, torch.device(device), _DTYPES[dtype])
        runs = [
            _Run(choice.name, block_size, _inputs(length, heads, head_dim, batch, _DTYPES[dtype], device, False))
            for length in lengths
        ]
        for _ in range(repeats + 1):
            for run in runs:
                run.measure()
        rows = [{"length": length, **run.report()} for length, run in zip(lengths, runs, strict=True)]
    finally:
        torch.set_num_threads(before)
    return {
        "rows": rows, "block_size": block_size, "heads": heads, "head_dim": head_dim, "batch": batch, "dtype": dtype,
        "backend": choice.name, "reason": choice.reason, "repeats": repeats, "threads": threads, "device": device,
        **_where(device),
        "method": "forward and backward of the attention alone, lengths interleaved after one untimed run of each; "
        "median wall-clock times",
    }  # fmt: skip


def _check(dtype: str, *sizes: int) -> None:
    if dtype not in _DTYPES:
        raise InputError(f"There is no dtype {dtype!r} to measure; choose {', '.join(_DTYPES)}.")
    if min(sizes) < 1:
        raise InputError("Length, heads, head_dim, batch, repeats and threads must all be at least 1.")


def _where(device: str) -> dict[str, Any]:
    return {
        "hardware": _hardware(device),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps from `forward` for the backward pass, each storage counted once."""
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = forward()
    del out
    return sum(sizes.values())


def peak_memory(step: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes that `step` holds at once beyond what was held before it."""
    if device != "cpu":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


class _Run:
    """One backend on fixed inputs, timed again and again."""

    def __init__(self, backend: str, block_size: int, inputs: list[Tensor]) -> None:
        *self._qkv, self._grad = inputs
        self._backend, self._block_size = backend, block_size
        self._times: list[tuple[float, float]] = []

    def measure(self) -> None:
        """One forward and backward pass."""
        start = self._now()
        out = self._forward()
        middle = self._now()
        torch.autograd.grad(out, self._qkv, self._grad)
        self._times.append((middle - start, self._now() - middle))

    @property
    def seconds(self) -> list[float]:
        """Forward and backward seconds of every timed run."""
        return [forward + backward for forward, backward in self._times[1:]]

    def report(self) -> dict[str, Any]:
        """Seconds and bytes."""
        return {
            "seconds": median(self.seconds),
            "seconds_quartiles": _quartiles(self.seconds),
            "forward_seconds": median(forward for forward, _ in self._times[1:]),
            "backward_seconds": median(backward for _, backward in self._times[1:]),
            "saved_bytes": saved_bytes(self._forward),
            "peak_bytes": peak_memory(
                lambda: torch.autograd.grad(self._forward(), self._qkv, self._grad), self._device
            ),
        }

    @property
    def _device(self) -> str:
        return self._grad.device.type

    def _forward(self) -> Tensor:
        q, k, v = self._qkv
        return block_attention(q, k, v, block_size=self._block_size, backend=self._backend)

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _inputs(
    length: int, heads: int, head_dim: int, batch: int, dtype: torch.dtype, device: str, noisy_queries_only: bool
) -> list[Tensor]:
    """q, k, v and a gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 2 * length, heads, head_dim)
    q, k, v, grad = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(4))
    if noisy_queries_only:
        q, grad = q[:, :length].clone(), grad[:, :length].clone()
    return [*(x.requires_grad_() for x in (q, k, v)), grad]


def _quartiles(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]]


def _hardware(device: str) -> str:
    name = processor_name(device)
    return name if device == "cuda" else f"{name} ({torch.backends.cpu.get_cpu_capability()})"
