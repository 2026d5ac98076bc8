"""Read one checkpoint: every file that is needed is compared with its SHA-256 as it is read."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bd3cli.errors import InputError
from bd3cli.plain import from_plain
from bd3cli.records import parse, read_json
from bd3cli.runs.records import CheckpointState, SavedOptimizer, SavedProgress

MODEL, AVERAGE, OPTIMIZER, STATE = "model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"
PROGRESS = "progress.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        path: its directory.
        state: what is known of it: its step, the validation if any, and checksums.
    """

    path: Path
    state: CheckpointState

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """The checkpoint in a directory.

        Raises:
            InputError: what says of its files is damaged.
        """
        try:
            return Checkpoint(path, read_json(CheckpointState, path / STATE))
        except InputError as error:
            raise InputError(f"{path / STATE} is damaged: {error} Use another checkpoint.") from error

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def averaged(self) -> bool:
        """Whether it holds averaged weights beside the raw ones."""
        return AVERAGE in self.state.sha256

    def weights(self, average: bool = True) -> dict[str, Tensor]:
        """The averaged weights when there are any and they are wanted, else the raw ones.

        Raises:
            InputError: the file is damaged.
        """
        name = AVERAGE if average and self.averaged else MODEL
        self._compare(name)
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.path / name} cannot be read: {error}.") from error

    def optimizer(self) -> SavedOptimizer:
        """Optimizer and scheduler state.

        Raises:
            InputError: it is damaged, or there is none, as in an imported checkpoint.
        """
        if OPTIMIZER not in self.state.sha256:
            raise InputError(
                f"{self.path} holds no optimizer state, since it was imported. Start a run from it: bd3cli finetune."
            )
        self._compare(OPTIMIZER)
        try:
            with warnings.catch_warnings():  # what is odd about a file is said by refusing it
                warnings.simplefilter("ignore")
                state: object = torch.load(self.path / OPTIMIZER, weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"it wants to call {named[1]}, which was not done" if named else "it is no pickle of tensors"
            raise InputError(f"{self.path / OPTIMIZER} is not an optimizer's state: {reason}.") from error
        except Exception as error:  # the file may be anything, and the unpickler may trip over it in any way
            raise InputError(f"{self.path / OPTIMIZER} cannot be read: {reason_of(error)}.") from error
        return parse(SavedOptimizer, state, str(self.path / OPTIMIZER))

    def progress(self) -> SavedProgress:
        """What was learned and searched about masks, and how many tokens were masked.

        Raises:
            InputError: it is damaged, or there is none, as in an imported checkpoint.
        """
        if PROGRESS not in self.state.sha256:
            return self._old_progress()
        self._compare(PROGRESS)
        try:
            progress = from_plain(json.loads((self.path / PROGRESS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, RecursionError) as error:
            raise InputError(f"{self.path / PROGRESS} cannot be read: {reason_of(error)}.") from error
        return parse(SavedProgress, progress, f"{self.path / PROGRESS} cannot be read")

    def _old_progress(self) -> SavedProgress:
        """The same of a checkpoint from before there was such a file: it is inside the optimizer's."""
        state: Mapping[str, object] = self.optimizer()
        return parse(SavedProgress, state.get("progress"), f"{self.path / OPTIMIZER}: its progress")

    def verify(self) -> None:
        """Compare every file with its SHA-256.

        Raises:
            InputError: naming the first that is not what was written.
        """
        for name in self.state.sha256:
            self._compare(name)

    def _compare(self, name: str) -> None:
        path, expected = self.path / name, self.state.sha256.get(name)
        if expected is None:
            raise InputError(f"{self.path / STATE} knows nothing of {name}. Use another checkpoint (--checkpoint).")
        try:
            actual = file_sha256(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}. Use another one.") from error
        if actual != expected:
            raise InputError(
                f"{path} is corrupt: its SHA-256 is {actual[:12]}..., not {expected[:12]}.... "
                "Use another checkpoint (--checkpoint)."
            )


def reason_of(error: BaseException) -> str:
    """What the system said, however deep libraries have wrapped it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
