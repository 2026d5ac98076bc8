"""Metrics to TensorBoard and Weights & Biases, beside the run's own ``metrics.jsonl``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from bd3cli.errors import InputError
from bd3cli.evaluation import Likelihood
from bd3cli.hashing import digest
from bd3cli.recipes.resolve import Resolved
from bd3cli.recipes.settings import Recipe, trackers
from bd3cli.runs.directory import RunDirectory
from bd3cli.training.reporter import Reporter

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


class Tracker(Protocol):
    """Takes numbers by name."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


class TensorBoard:
    """Event files in the run's ``tensorboard`` folder; what a killed run wrote after its checkpoint is hidden."""

    def __init__(self, run: RunDirectory, resolved: Resolved, step: int) -> None:
        library = _imported("tensorboard")
        self._writer = library.SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One wandb run a run directory, taken up again when that is resumed. ``WANDB_*`` variables configure it."""

    def __init__(self, run: RunDirectory, resolved: Resolved, step: int) -> None:
        library = _imported("wandb")
        created = run.read_record().created or ""
        try:
            self._run = library.init(
                project="bd3cli",
                name=run.path.name,
                id=digest([run.path.name, created])[:16],
                dir=str(run.path),
                config=resolved.values(),
                resume="allow",
            )
        except Exception as error:  # no account, no network, no permission
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise InputError(
                f"train.tracking: wandb could not start ({type(error).__name__}: {reason}). Log in with `wandb login`, "
                "set WANDB_MODE=offline, or leave it out; then continue the run with --resume."
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


KINDS: dict[str, type[TensorBoard] | type[WeightsAndBiases]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


class Tracked:
    """A reporter that passes everything on to another one, and numbers to the trackers too."""

    def __init__(self, reporter: Reporter, trackers: Sequence[Tracker]) -> None:
        self._reporter, self._trackers = reporter, trackers

    def notice(self, text: str) -> None:
        self._reporter.notice(text)

    def data(self, stage: str, done: int, total: int) -> None:
        self._reporter.data(stage, done, total)

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        self._reporter.step(step, total, metrics)
        self._log(step, {f"train/{name}": value for name, value in metrics.items()})

    def validation(self, step: int, result: Likelihood) -> None:
        self._reporter.validation(step, result)
        found = {"nats_per_token": result.nats_per_token, "ppl": result.ppl, "bits_per_byte": result.bits_per_byte}
        self._log(step, {f"validation/{name}": value for name, value in found.items() if value is not None})

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)


def require_trackers(recipe: Recipe) -> None:
    """Find out before any work whether what `train.tracking` names is installed.

    Raises:
        InputError: it is not.
    """
    for name in trackers(recipe.train.tracking):
        _imported(name)


@contextmanager
def tracked(reporter: Reporter, run: RunDirectory, resolved: Resolved, step: int) -> Iterator[Reporter]:
    """`reporter` with the recipe's trackers beside it, from `step` on."""
    names = trackers(resolved.recipe.train.tracking)
    if not names:
        yield reporter
        return
    opened: list[Tracker] = []
    with ExitStack() as stack:
        for name in names:
            opened.append(KINDS[name](run, resolved, step))
            stack.push(_closing(opened[-1]))
        yield Tracked(reporter, opened)


def _closing(tracker: Tracker) -> Any:
    def leave(kind: object, error: object, trace: object) -> None:
        tracker.close(failed=kind is not None)

    return leave


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise InputError(
            f"train.tracking {name!r} needs the package {name}, which is not installed. "
            f"Install it with: python -m pip install 'bd3cli[{name}]', or leave it out."
        ) from error
