"""Tasks done one after another in this process, or by several at a time."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from bd3cli.data.encoding import available_cores
from bd3cli.device import choose_device
from bd3cli.errors import BD3Error, RunError
from bd3cli.reproduce.request import Interrupted, Request, Watch
from bd3cli.reproduce.tasks import Task
from bd3cli.reproduce.work import Measured, Work

Done = tuple[Task, Measured | None]


def default_jobs() -> int:
    """One for every core, 8 at most for the sake of memory; one in all where an accelerator does the work."""
    return 1 if choose_device("auto").type != "cpu" else min(8, available_cores())


def carry_out(tasks: Sequence[Task], work: Work) -> Iterator[Done]:
    """Do all tasks, each after what it needs, and give each back when it is done.

    Raises:
        Interrupted: a signal asked to stop; trainings have saved a checkpoint.
        InputError: text or settings that cannot be used.
        RunError: a training failed, or a worker process ended.
    """
    jobs = min(work.request.jobs, len(tasks))
    if jobs <= 1:
        for task in tasks:
            yield task, work.do(task)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with handling(signal.SIG_IGN, signal.SIGINT):  # inherited: Ctrl-C reaches all, the first process alone answers
        workers = [start(work.request, threads) for _ in range(jobs)]
    with handling(stop, signal.SIGINT, signal.SIGTERM):
        try:
            yield from share(tasks, workers, work.watch)
            for worker in workers:
                worker.pipe.send(None)
        except BaseException:
            end(workers)
            raise
        for worker in workers:
            worker.process.join()


@dataclass
class Worker:
    """A process, the way to it, and what it is doing."""

    process: SpawnProcess
    pipe: Connection
    task: Task | None = None


def share(tasks: Sequence[Task], workers: Sequence[Worker], watch: Watch) -> Iterator[Done]:
    """Give every idle worker the first task whose needs are met, until all are done."""
    waiting, done = list(tasks), set[str]()
    while waiting or any(worker.task for worker in workers):
        for worker in workers:
            if worker.task is None:
                worker.task = next((task for task in waiting if done.issuperset(task.needs)), None)
                if worker.task is not None:
                    waiting.remove(worker.task)
                    with alive(worker):
                        worker.pipe.send(worker.task)
        busy = {worker.pipe: worker for worker in workers if worker.task is not None}
        assert busy, "a task needs one that is not in the list, or itself"
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            worker = busy[pipe]
            with alive(worker):
                what, value = worker.pipe.recv()
            if what == "finished":
                assert worker.task is not None
                done.add(worker.task.name)
                task, worker.task = worker.task, None
                yield task, value
            elif what == "failed":
                raise value
            else:
                getattr(watch, what)(value)


@contextmanager
def alive(worker: Worker) -> Iterator[None]:
    """Talk to a worker.

    Raises:
        RunError: it has ended.
    """
    try:
        yield
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode
        raise RunError(
            f"A worker process ended with exit code {code}. If memory ran out, --jobs 1 needs less. "
            "What is done is kept, and the same command goes on from here."
        ) from None


def start(request: Request, threads: int) -> Worker:
    """A worker process of its own session of work."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(request, threads, there))
    process.start()
    there.close()  # so that the end of the process ends the pipe
    return Worker(process, here)


def end(workers: Sequence[Worker]) -> None:
    """Ask all to stop, and wait until they have: a training saves a checkpoint. A second signal ends them at once."""
    try:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            with suppress(EOFError, OSError):
                worker.pipe.send(None)  # a training near its end may finish it in spite of the signal
                while True:  # a full pipe would keep it from ending
                    worker.pipe.recv()
            worker.process.join()
    except BaseException:
        for worker in workers:
            worker.process.kill()
        raise


def stop(number: int, frame: object) -> None:
    """A signal handler: leave what is being done here; the workers are told by `end`."""
    raise Interrupted(number)


@contextmanager
def handling(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    """Have signals handled so; as they were where that is not to be changed, outside the main thread."""
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def serve(request: Request, threads: int, pipe: Connection) -> None:
    """A worker's life: tasks in, progress and outcomes out, until it is sent None."""
    torch.set_num_threads(threads)
    work = Work(request, Messages(pipe))
    with suppress(EOFError, BrokenPipeError):  # the first process is gone
        try:
            while (task := pipe.recv()) is not None:
                pipe.send(("finished", work.do(task)))
        except (BD3Error, Interrupted) as error:
            pipe.send(("failed", error))


@dataclass(frozen=True)
class Messages:
    """A watch in another process."""

    pipe: Connection

    def begin(self, total: float) -> None:
        self.pipe.send(("begin", total))

    def doing(self, text: str) -> None:
        self.pipe.send(("doing", text))

    def advance(self, units: float) -> None:
        self.pipe.send(("advance", units))

    def done(self, text: str) -> None:
        self.pipe.send(("done", text))
