"""Checkpoints that are whole or absent: written aside, flushed, renamed, and checked when read.

``checkpoints/step-00000250/`` holds ``model.safetensors``, ``ema.safetensors``, ``optimizer.pt`` and
``state.json`` with the SHA-256 of the others. ``best.json`` names the best one so far.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bd3cli.errors import InputError, RunError

T = TypeVar("T")
NAME = re.compile(r"step-\d{8}")
MODEL, AVERAGE, OPTIMIZER, STATE = "model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"
BEST = "best.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        path: its directory.
        state: ``step``, the validation result if any, and checksums.
    """

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def averaged(self) -> bool:
        """Whether it holds averaged weights beside the raw ones."""
        return AVERAGE in self.state["sha256"]

    def weights(self, average: bool = True) -> dict[str, Tensor]:
        """The averaged weights when there are any and they are wanted, else the raw ones."""
        name = AVERAGE if average and self.averaged else MODEL
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.path / name} cannot be read: {error}.") from error

    def optimizer(self) -> dict[str, Any]:
        """Optimizer and scheduler state.

        Raises:
            InputError: it is unreadable, or there is none, as in an imported checkpoint.
        """
        if OPTIMIZER not in self.state["sha256"]:
            raise InputError(
                f"{self.path} holds no optimizer state, since it was imported. Start a run from it: bd3cli finetune."
            )
        try:
            with warnings.catch_warnings():  # what is odd about a file is said by refusing it
                warnings.simplefilter("ignore")
                state: dict[str, Any] = torch.load(self.path / OPTIMIZER, weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"it wants to call {named[1]}, which was not done" if named else "it is no pickle of tensors"
            raise InputError(f"{self.path / OPTIMIZER} is not an optimizer's state: {reason}.") from error
        except Exception as error:  # the file may be anything, and the unpickler may trip over it in any way
            raise InputError(f"{self.path / OPTIMIZER} cannot be read: {_reason(error)}.") from error
        return state


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """`keep` recent checkpoints survive besides the best one."""
        self.folder, self.keep = folder, keep

    def names(self) -> list[str]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if NAME.fullmatch(p.name) and (p / STATE).is_file())

    def untouched(self) -> bool:
        """Whether no checkpoint was ever completed here; what a killed process left half written does not count."""
        if not self.folder.is_dir():
            return not self.folder.exists()
        return all(p.name.startswith(".") for p in self.folder.iterdir())

    def best(self) -> str | None:
        """Name of the checkpoint with the lowest validation NELBO, if one was validated."""
        try:
            name = json.loads((self.folder / BEST).read_text())["checkpoint"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return name if name in self.names() else None

    def save(
        self,
        step: int,
        model: dict[str, Tensor],
        average: dict[str, Tensor] | None,
        optimizer: dict[str, Any] | None,
        extra: dict[str, Any],
    ) -> str:
        """Write a checkpoint atomically and drop old ones; without an optimizer it cannot be resumed.

        Raises:
            RunError: the disk refused; earlier checkpoints are untouched.
        """
        name = f"step-{step:08d}"
        part = self.folder / f".{name}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            part.mkdir()
            save_file({k: v.detach().cpu().contiguous() for k, v in model.items()}, part / MODEL)
            if average is not None:
                save_file({k: v.detach().cpu().contiguous() for k, v in average.items()}, part / AVERAGE)
            if optimizer is not None:
                _save_pickle(optimizer, part / OPTIMIZER)
            files = sorted(p.name for p in part.iterdir())
            state = {"schema": 1, "step": step, "sha256": {f: file_sha256(part / f) for f in files}, **extra}
            (part / STATE).write_text(json.dumps(state, indent=1) + "\n")
            for file in part.iterdir():
                _flush(file)
            self._discard(name)  # a damaged one, passed over when the run was resumed
            part.rename(self.folder / name)
            _flush(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise self._refusal(name, error) from error
        self._retain()
        return name

    def _refusal(self, name: str, error: Exception) -> RunError:
        kept = self.names()
        return RunError(
            f"Checkpoint {name} could not be written to {self.folder}: {_reason(error)}. "
            + (f"{kept[-1]} is intact; free some space and resume." if kept else "There is none before it.")
        )

    def mark_best(self, name: str, nats_per_token: float) -> None:
        """Record the best checkpoint so far.

        Raises:
            RunError: the disk refused.
        """
        part = self.folder / f".{BEST}.part"
        try:
            part.write_text(json.dumps({"checkpoint": name, "nats_per_token": nats_per_token}) + "\n")
            part.replace(self.folder / BEST)
        except OSError as error:
            raise self._refusal(BEST, error) from error
        self._retain()

    def best_nats(self) -> float:
        """Nats per token of the best checkpoint; infinite when there is none."""
        try:
            return float(json.loads((self.folder / BEST).read_text())["nats_per_token"])
        except (OSError, ValueError, KeyError, TypeError):
            return math.inf

    def mend_best(self, step: int) -> None:
        """Find the best checkpoint again, among the good ones up to `step`, where a resumed run goes on.

        A run may have been killed after it wrote a checkpoint and before it marked it as the best.
        """
        results = {}
        for name in self.names():
            if int(name.removeprefix("step-")) > step:
                continue
            with contextlib.suppress(InputError):
                results[name] = validated_nats(self._verified(name).state)
        known = {name: nats for name, nats in results.items() if nats is not None}
        if known:
            best = min(known, key=lambda name: (known[name], name))
            self.mark_best(best, known[best])
        else:
            (self.folder / BEST).unlink(missing_ok=True)

    def load(self, which: str = "last") -> Checkpoint:
        """Read and verify ``last``, ``best`` or a named checkpoint.

        Raises:
            InputError: there is none, or its files do not match their checksums.
        """
        names = self.names()
        if not names:
            raise InputError(f"{self.folder} holds no complete checkpoint. Train the run for longer, or resume it.")
        name = {"last": names[-1], "best": self.best() or names[-1]}.get(which, which)
        if name not in names:
            raise InputError(f"There is no checkpoint {which!r} in {self.folder}. There are: {', '.join(names)}.")
        return self._verified(name)

    def load_latest_good(self, read: Callable[[Checkpoint], T]) -> tuple[T, list[str]]:
        """What `read` makes of the newest checkpoint that verifies and that it accepts; why it is not a newer one.

        Raises:
            InputError: no checkpoint is usable.
        """
        refused: list[str] = []
        for name in reversed(self.names()):
            try:
                return read(self._verified(name)), refused
            except InputError as error:
                refused.append(str(error))
        detail = f" {refused[0]}" if refused else ""
        raise InputError(f"{self.folder} holds no usable checkpoint to resume from.{detail}")

    def _verified(self, name: str) -> Checkpoint:
        path = self.folder / name
        try:
            state = json.loads((path / STATE).read_text())
            sums: dict[str, str] = dict(state["sha256"])
            int(state["step"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path / STATE} is damaged: {error}. Use another checkpoint.") from error
        for file, expected in sums.items():
            try:
                actual = file_sha256(path / file)
            except OSError as error:
                raise InputError(f"{path / file} cannot be read: {error.strerror}. Use another one.") from error
            if actual != expected:
                raise InputError(
                    f"{path / file} is corrupt: its SHA-256 is {actual[:12]}..., not {expected[:12]}.... "
                    "Use another checkpoint (--checkpoint)."
                )
        return Checkpoint(path, state)

    def _retain(self) -> None:
        names = self.names()
        for name in names[: -self.keep]:
            if name != self.best():
                self._discard(name)

    def _discard(self, name: str) -> None:
        """Remove a checkpoint in one step, so that half of one is never found under its name."""
        if (self.folder / name).is_dir():
            gone = self.folder / f".{name}.gone"
            shutil.rmtree(gone, ignore_errors=True)
            with contextlib.suppress(OSError):
                (self.folder / name).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what a process that was killed left half written or half removed."""
        for path in [*self.folder.glob(".step-*.part*"), *self.folder.glob(".step-*.gone")]:
            shutil.rmtree(path, ignore_errors=True)


def validated_nats(state: dict[str, Any]) -> float | None:
    """Nats per token of the validation a checkpoint was written with, if there was one."""
    try:
        value = float(state["validation"]["nats_per_token"])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _reason(error: BaseException) -> str:
    """What the system said, however deep libraries have wrapped it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _save_pickle(state: dict[str, Any], path: Path) -> None:
    """`torch.save` through a file of ours: its own writer turns a full disk into an abort or a riddle."""
    with path.open("wb") as file:
        torch.save(state, file)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
