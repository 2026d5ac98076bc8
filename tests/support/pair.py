"""Processes that run the command line together over gloo, as torchrun would start them; two, or one alone."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload(["bd3cli.training.loop", "bd3cli.cli.main"])  # torch is imported once, not in each


@dataclass(frozen=True)
class Pair:
    """How they ended: exit codes (negative: killed by a signal), and what they wrote, in order of rank."""

    codes: list[int]
    out: list[str]
    err: list[str]


def start(
    folder: Path, arguments: Sequence[object], hook: Callable[[int], None] | None = None, processes: int = 2
) -> list[BaseProcess]:
    """Start ``bd3cli ARGUMENTS`` in `processes`; each first calls `hook`, which is importable, with its rank."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_PORT": str(port)}
    environment = {**os.environ, **group, "MASTER_ADDR": "127.0.0.1"}
    started: list[BaseProcess] = [
        WORKERS.Process(target=_work, args=(rank, folder, [str(a) for a in arguments], environment, hook))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    return started


def finish(folder: Path, processes: Sequence[BaseProcess], timeout: float = 120) -> Pair:
    """Wait for all of them."""
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            for other in processes:
                other.kill()
            raise TimeoutError(f"{process.name} did not end:\n{(folder / 'err-0').read_text()}")
    files = {name: [folder / f"{name}-{rank}" for rank in range(len(processes))] for name in ("out", "err")}
    texts = {name: [p.read_text() if p.exists() else "" for p in paths] for name, paths in files.items()}
    return Pair([p.exitcode or 0 for p in processes], texts["out"], texts["err"])


def run(folder: Path, *arguments: object, hook: Callable[[int], None] | None = None) -> Pair:
    """``bd3cli ARGUMENTS`` in two processes."""
    return finish(folder, start(folder, arguments, hook))


def _work(rank: int, folder: Path, arguments: list[str], environment: dict[str, str], hook: Callable | None) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        os.dup2(os.open(folder / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    torch.set_num_threads(1)
    from bd3cli.cli.main import main

    if hook is not None:
        hook(rank)
    main(arguments)
