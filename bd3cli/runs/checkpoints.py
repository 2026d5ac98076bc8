"""Checkpoints that are whole or absent: written aside, flushed, renamed, and checked when read.

``checkpoints/step-00000250/`` holds ``model.safetensors``, ``ema.safetensors``, ``optimizer.pt``, ``progress.json``
with what was learned and searched about masks, and ``state.json`` with the SHA-256 of the others. A file is compared
with its SHA-256 when it is read. ``best.json`` names the best one so far.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bd3cli.errors import InputError, RunError
from bd3cli.files import write_whole
from bd3cli.plain import to_plain
from bd3cli.records import as_plain, read_json
from bd3cli.runs.checkpoint import AVERAGE, MODEL, OPTIMIZER, PROGRESS, STATE, Checkpoint, file_sha256, reason_of
from bd3cli.runs.records import BestMark, CheckpointState

T = TypeVar("T")
NAME = re.compile(r"step-\d{8}")
BEST = "best.json"


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
            name = read_json(BestMark, self.folder / BEST).checkpoint
        except InputError:
            return None
        return name if name in self.names() else None

    def save(
        self,
        step: int,
        model: dict[str, Tensor],
        average: dict[str, Tensor] | None,
        optimizer: Mapping[str, object] | None,
        extra: Mapping[str, object],
        progress: Mapping[str, object] | None = None,
    ) -> str:
        """Write a checkpoint atomically and drop old ones; without an optimizer it cannot be resumed.

        Args:
            progress: tensors and plain values for `Checkpoint.progress`.

        Raises:
            RunError: the disk refused; earlier checkpoints are untouched.
            InputError: `progress` holds anything else.
        """
        name = f"step-{step:08d}"
        part = self.folder / f".{name}.part"
        known = None if progress is None else _progress_text(progress)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            part.mkdir()
            save_file({k: v.detach().cpu().contiguous() for k, v in model.items()}, part / MODEL)
            if average is not None:
                save_file({k: v.detach().cpu().contiguous() for k, v in average.items()}, part / AVERAGE)
            if optimizer is not None:
                _save_pickle(optimizer, part / OPTIMIZER)
            if known is not None:
                (part / PROGRESS).write_text(known, encoding="utf-8")
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
            f"Checkpoint {name} could not be written to {self.folder}: {reason_of(error)}. "
            + (f"{kept[-1]} is intact; free some space and resume." if kept else "There is none before it.")
        )

    def mark_best(self, name: str, nats_per_token: float) -> None:
        """Record the best checkpoint so far.

        Raises:
            RunError: the disk refused.
        """
        mark = BestMark(checkpoint=name, nats_per_token=nats_per_token)
        try:
            write_whole(self.folder / BEST, json.dumps(as_plain(mark)) + "\n")
        except OSError as error:
            raise self._refusal(BEST, error) from error
        self._retain()

    def best_nats(self) -> float:
        """Nats per token of the best checkpoint; infinite when there is none."""
        try:
            return read_json(BestMark, self.folder / BEST).nats_per_token
        except InputError:
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
                checkpoint = Checkpoint.open(self.folder / name)
                checkpoint.verify()
                results[name] = validated_nats(checkpoint.state)
        known = {name: nats for name, nats in results.items() if nats is not None}
        if known:
            best = min(known, key=lambda name: (known[name], name))
            self.mark_best(best, known[best])
        else:
            (self.folder / BEST).unlink(missing_ok=True)

    def load(self, which: str = "last") -> Checkpoint:
        """Open ``last``, ``best`` or a named checkpoint; its files are verified as they are read.

        Raises:
            InputError: there is none, or what says of its files is damaged.
        """
        names = self.names()
        if not names:
            raise InputError(f"{self.folder} holds no complete checkpoint. Train the run for longer, or resume it.")
        name = {"last": names[-1], "best": self.best() or names[-1]}.get(which, which)
        if name not in names:
            raise InputError(f"There is no checkpoint {which!r} in {self.folder}. There are: {', '.join(names)}.")
        return Checkpoint.open(self.folder / name)

    def load_latest_good(self, read: Callable[[Checkpoint], T]) -> tuple[T, list[str]]:
        """What `read` makes of the newest checkpoint whose files it can read and accepts; why it is not a newer one.

        Raises:
            InputError: no checkpoint is usable.
        """
        refused: list[str] = []
        for name in reversed(self.names()):
            try:
                return read(Checkpoint.open(self.folder / name)), refused
            except InputError as error:
                refused.append(str(error))
        detail = f" {refused[0]}" if refused else ""
        raise InputError(f"{self.folder} holds no usable checkpoint to resume from.{detail}")

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


def validated_nats(state: CheckpointState) -> float | None:
    """Nats per token of the validation a checkpoint was written with, if there was one."""
    if state.validation is None or not math.isfinite(state.validation["nats_per_token"]):
        return None
    return state.validation["nats_per_token"]


def _save_pickle(state: Mapping[str, object], path: Path) -> None:
    """`torch.save` through a file of ours: its own writer turns a full disk into an abort or a riddle."""
    with path.open("wb") as file:
        torch.save(state, file)


def _progress_text(progress: Mapping[str, object]) -> str:
    try:
        return json.dumps(to_plain(progress), allow_nan=False) + "\n"
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"What the masking's learner gives as its state cannot be saved: {error}. Its state_dict() must hold "
            "tensors and plain values only (`bd3cli maskings check`)."
        ) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
