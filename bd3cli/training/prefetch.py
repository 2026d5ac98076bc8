"""Prepare the next step's data while the device computes this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[int], T], start: int, stop: int) -> Iterator[T]:
    """``make(start), ..., make(stop - 1)`` in order, each made in a thread while its predecessor is in use.

    `make` must be a pure function of the step, which is what keeps a resumed run exact.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        future = pool.submit(make, start)
        for step in range(start, stop):
            current = future.result()
            if step + 1 < stop:
                future = pool.submit(make, step + 1)
            yield current
