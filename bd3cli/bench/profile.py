"""Where the time of a training step goes, and how far it is from its matrix products alone."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_SCOPES = {
    "_Merged": "attention",
    "_MergedBackward": "attention",
    "_WeightedLoss": "vocabulary projection and loss",
    "_WeightedLossBackward": "vocabulary projection and loss",
    "optimizer": "clipping, optimizer",
    "average": "weight average",
}
"""What an event, or any event around it, is called and which part of the step it belongs to."""

_GEMMS = {f"aten::{name}" for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_")}
_LINEAR, _REST, _BETWEEN = "linear layers", "norms, modulation, activations, rest", "between operations"

Shape = tuple[tuple[int, ...], tuple[int, ...], bool, bool, torch.dtype]
"""Sizes of the two factors of a product, whether each is transposed in memory, and their dtype."""


def profile_step(step: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Seconds of each part of `step`, and of the whole over its matrix products.

    Returns:
        ``parts``: {part: seconds}, of one step under PyTorch's profiler, scaled to the median step without it.
        ``gemm_flops``: of one step; ``gemm_seconds``: of the products it makes, each shape timed alone in the same
        process, in turn with the steps; ``gemm_flops_per_second``; ``over_gemm``: ``seconds`` over ``gemm_seconds``.
    """
    step()
    products = _products(step)
    seconds: list[float] = []
    alone: dict[Shape, list[float]] = {shape: [] for shape in products}
    for _ in range(repeats):
        seconds.append(_seconds(step))
        for shape, times in alone.items():
            product = partial(torch.matmul, *_operands(shape))
            product()
            times.append(_seconds(product))
    whole = median(seconds)
    gemm = sum(count * median(alone[shape]) for shape, count in products.items())
    flops = sum(count * _flops(shape) for shape, count in products.items())
    return {
        "seconds": whole,
        "parts": _parts(step, whole),
        "gemm_flops": flops,
        "gemm_seconds": gemm,
        "gemm_flops_per_second": flops / gemm,
        "over_gemm": whole / gemm,
    }


def counted_flops(run: Callable[[], object]) -> int:
    """Operations of the matrix products that `run` makes: two for each multiplication and addition."""
    return sum(count * _flops(shape) for shape, count in _products(run).items())


class _Recorder(TorchDispatchMode):
    """Counts the shapes of matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in _GEMMS:
            a, b = args[:2] if name in ("aten::mm", "aten::bmm") else args[1:3]
            self.found[tuple(a.shape), tuple(b.shape), _transposed(a), _transposed(b), a.dtype] += 1
        return func(*args, **(kwargs or {}))


def _products(step: Callable[[], object]) -> Counter[Shape]:
    recorder = _Recorder()
    with recorder:
        step()
    return recorder.found


def _parts(step: Callable[[], object], whole: float) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        start = time.perf_counter()
        step()
        elapsed = time.perf_counter() - start
    found: defaultdict[str, float] = defaultdict(float)
    for event in recorded.events():
        found[_part(event)] += event.self_cpu_time_total / 1e6
    found[_BETWEEN] = max(0.0, elapsed - sum(found.values()))
    return {part: seconds * whole / elapsed for part, seconds in sorted(found.items(), key=lambda row: -row[1])}


def _part(event: FunctionEvent) -> str:
    around: FunctionEvent | None = event
    while around is not None:
        if around.name in _SCOPES:
            return _SCOPES[around.name]
        around = around.cpu_parent
    return _LINEAR if event.name in _GEMMS else _REST


def _operands(shape: Shape) -> tuple[Tensor, Tensor]:
    a, b, a_transposed, b_transposed, dtype = shape
    return _factor(a, a_transposed, dtype), _factor(b, b_transposed, dtype)


def _factor(size: tuple[int, ...], transposed: bool, dtype: torch.dtype) -> Tensor:
    if transposed:
        return torch.randn(*size[:-2], size[-1], size[-2]).to(dtype).mT
    return torch.randn(size).to(dtype)


def _transposed(x: Tensor) -> bool:
    return x.stride(-1) != 1 and x.stride(-2) == 1


def _flops(shape: Shape) -> int:
    a, b = shape[:2]
    return 2 * math.prod(a) * b[-1]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
