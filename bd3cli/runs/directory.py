"""The run directory: what was asked, with which software and data, and what came of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from bd3cli.device import processor_name
from bd3cli.errors import InputError, RunError
from bd3cli.plugins import load_plugins, metadata_version, registered
from bd3cli.recipes.resolve import Resolved, to_toml
from bd3cli.rng import STREAM_VERSION
from bd3cli.version import __version__

RECORD, RECIPE, METRICS, LOCK = "run.json", "recipe.toml", "metrics.jsonl", ".lock"
LIBRARIES = ("torch", "numpy", "datasets", "tiktoken", "scipy", "xformers", "safetensors", "typer", "pluggy")


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run, and its record."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def refuse_unfit(self) -> None:
        """Refuse a directory in use or out of reach, before any work is done for it.

        Raises:
            InputError: it holds something already, or cannot be written.
        """
        try:
            os.fspath(self.path).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{self.path} is not a name in UTF-8, which checkpoints need. Choose another --out."
            ) from error
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(
                f"{self.path} already exists and is not empty. Continue it with --resume, or choose another --out."
            )

        existing = next(p for p in (self.path.absolute(), *self.path.absolute().parents) if p.exists())
        effective = os.access in os.supports_effective_ids
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK, effective_ids=effective):
            reason = "is not writable" if existing.is_dir() else "is a file"
            raise InputError(f"{self.path} cannot be written: {existing} {reason}. Choose another --out.")

    def create(self, resolved: Resolved, record: dict[str, Any]) -> None:
        """Claim the directory for a new run.

        Raises:
            InputError: it is in use, or cannot be written.
        """
        self.refuse_unfit()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._replace(RECIPE, to_toml(resolved.recipe))
            self._replace(RECORD, _record_text(record))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}. Choose another --out.") from error

    def read_record(self) -> dict[str, Any]:
        """The run record.

        Raises:
            InputError: this is not a run directory.
        """
        try:
            record = json.loads((self.path / RECORD).read_text(encoding="utf-8"))
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
        except FileNotFoundError as error:
            hint = "" if self.path.is_dir() else " (there is no such directory)"
            raise InputError(
                f"{self.path} is not a run: it has no {RECORD}{hint}. Give a directory written by `bd3cli train`."
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / RECORD} cannot be read: {error}.") from error
        return record

    def update_record(self, **changes: Any) -> None:
        """Change fields of the run record.

        Raises:
            RunError: the disk refused; the record is as it was.
        """
        with self._writing(RECORD):
            self._replace(RECORD, _record_text(self.read_record() | changes))

    def update_recipe(self, resolved: Resolved, **changes: Any) -> None:
        """Change the recipe the run goes on with, and other fields of the run record.

        Raises:
            RunError: the disk refused.
        """
        with self._writing(RECIPE):
            self._replace(RECIPE, to_toml(resolved.recipe))
        self.update_record(recipe=resolved.values(), sources=resolved.sources, **changes)

    def save_sample(self, name: str, text: str) -> None:
        with self._writing(f"samples/{name}"):
            (self.path / "samples").mkdir(exist_ok=True)
            self._replace(f"samples/{name}", text + "\n")

    def save_diagnosis(self, name: str, facts: dict[str, Any]) -> None:
        with self._writing(name):
            self._replace(name, json.dumps(facts, indent=1, default=str) + "\n")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to the metrics.

        Raises:
            RunError: the disk refused; a resumed run drops what was written of the line.
        """
        with self._writing(METRICS), (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Drop rows after `step`, and a last line that a crash left unfinished."""
        path = self.path / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        with self._writing(METRICS):
            self._replace(METRICS, "".join(line + "\n" for line in kept))

    def flush_metrics(self) -> None:
        """See to it that the metrics outlive a loss of power, as the checkpoint written next will."""
        with self._writing(METRICS), (self.path / METRICS).open("ab") as file:
            os.fsync(file.fileno())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the run, so that two processes never train in it at once.

        Raises:
            InputError: another process holds it.
        """
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(f"{self.path} is being trained by another process. Wait for it, or stop it.") from error
        except (OSError, NotImplementedError):  # a file system without locks: go on without
            pass
        try:
            yield
        finally:
            lock.release()

    def _replace(self, name: str, text: str) -> None:
        """Write a file of the run, whole or not at all."""
        path = self.path / name
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path / name} could not be written: {error.strerror}. The last checkpoint is intact; "
                f"make room, then continue with --resume --out {self.path}."
            ) from error


def _record_text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n"


def new_record(resolved: Resolved, argv: list[str], **facts: Any) -> dict[str, Any]:
    """Everything needed to run it again and to know what it was."""
    return {
        "schema": 1,
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": argv,
        "seed": resolved.recipe.seed,
        "stream_version": STREAM_VERSION,
        "recipe": resolved.values(),
        "sources": resolved.sources,
        "versions": {"bd3cli": __version__, "python": platform.python_version()}
        | {name: metadata_version(name) for name in LIBRARIES},
        "plugins": [asdict(record) for record in load_plugins().records],
        "uses": used_plugins(resolved),
        "machine": {
            "platform": platform.platform(),
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "git": git_state(),
        **facts,
    }


def used_plugins(resolved: Resolved) -> dict[str, dict[str, str]]:
    """Which distribution and version provided everything the recipe names that plugins may provide."""
    objective, data = resolved.recipe.objective, resolved.recipe.data
    specs = {"tokenizer": data.tokenizer}
    if not (data.name == "pydocs" and (data.train or data.validation or data.test)):  # files on their own
        specs["dataset"] = data.name
    if objective.family != "ar":
        specs = {"schedule": objective.schedule, "weight": objective.weight, "masking": objective.masking} | specs
    return registered(specs)


def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the working directory's repository, if it is one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
