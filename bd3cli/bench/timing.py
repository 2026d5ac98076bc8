"""Time alternatives in turns, in one process, and describe the machine."""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from bd3cli.device import processor_name


@dataclass(frozen=True)
class Timing:
    """Seconds of every repeat of one alternative."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleaved(alternatives: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Run every alternative once for warmth, then all of them in turn `repeats` times.

    Turns, not blocks: what disturbs the machine disturbs all of them alike.
    """
    for run in alternatives.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(repeats):
        for name, run in alternatives.items():
            _synchronise()
            start = time.perf_counter()
            run()
            _synchronise()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(slow: Timing, fast: Timing) -> dict[str, float]:
    """How many times faster: the ratio of medians, and the quartiles of the ratios within each turn."""
    turns = sorted(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))
    quartiles = statistics.quantiles(turns, n=4) if len(turns) > 1 else [turns[0]] * 3
    return {"ratio": slow.median / fast.median, "low": quartiles[0], "high": quartiles[2]}


def peak_memory(run: Callable[[], object]) -> int | None:
    """Largest resident size in bytes while `run` runs, above the size before; None where Linux does not tell."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    try:
        # freed memory that the C library keeps would hide what `run` needs
        ctypes.CDLL(None).malloc_trim(0)
        clear.write_text("5")
    except (OSError, AttributeError):
        return None
    before = _resident(status, "VmRSS")
    run()
    return _resident(status, "VmHWM") - before


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Environment(TypedDict, total=False):
    """Hardware, versions and the way of measuring beside a figure."""

    processor: str
    threads: int
    torch: str
    python: str
    method: str


def environment() -> Environment:
    """Hardware and versions, for the record beside every figure."""
    return {
        "processor": processor_name("cuda" if torch.cuda.is_available() else "cpu"),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "method": "interleaved repeats in one process after one warm-up each; medians; ratio of medians with the "
        "quartiles of the ratios within each turn",
    }


def _resident(status: Path, field: str) -> int:
    for line in status.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{status} has no {field}")


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
