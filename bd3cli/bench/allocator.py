"""How the C library manages this process's memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, from now to its end; without glibc (Linux) it does nothing.

    By default large tensors are mapped when made and unmapped when freed. A training step makes and frees the same
    ones every time, and then spends up to a quarter of its time having the system map and clear their pages.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
