"""The run directory: what was asked, with which software and data, and what came of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout

from bd3cli.device import processor_name
from bd3cli.errors import InputError, RunError
from bd3cli.files import write_whole
from bd3cli.plugins import load_plugins, metadata_version, registered
from bd3cli.recipes.resolve import Resolved, to_toml
from bd3cli.records import as_plain, parse, read_json
from bd3cli.rng import STREAM_VERSION
from bd3cli.runs.records import GitState, MetricsRow, RunRecord, StepRow, UsedPlugin, ValidationRow
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

    def create(self, resolved: Resolved, record: RunRecord) -> None:
        """Claim the directory for a new run.

        Raises:
            InputError: it is in use, or cannot be written.
        """
        self.refuse_unfit()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / RECIPE, to_toml(resolved.recipe))
            write_whole(self.path / RECORD, _record_text(record))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}. Choose another --out.") from error

    def read_record(self) -> RunRecord:
        """The run record.

        Raises:
            InputError: this is not a run directory, or the record holds what it cannot.
        """
        try:
            return read_json(RunRecord, self.path / RECORD)
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise InputError(f"{error} Mend the file, or restore a copy of it.") from error
            hint = "" if self.path.is_dir() else " (there is no such directory)"
            raise InputError(
                f"{self.path} is not a run: it has no {RECORD}{hint}. Give a directory written by `bd3cli train`."
            ) from error

    def update_record(self, **changes: Any) -> None:
        """Change fields of the run record; what it holds besides, from a newer version say, stays.

        Args:
            changes: field of `RunRecord` -> its new value, which is written even where it is the default.

        Raises:
            RunError: the disk refused; the record is as it was.
        """
        record = self.read_record()
        kept = {**record.document, **dict.fromkeys(changes)}
        with self._writing(RECORD):
            write_whole(self.path / RECORD, _record_text(replace(record, **changes, document=kept)))

    def update_recipe(self, resolved: Resolved, **changes: Any) -> None:
        """Change the recipe the run goes on with, and other fields of the run record.

        Raises:
            RunError: the disk refused.
        """
        with self._writing(RECIPE):
            write_whole(self.path / RECIPE, to_toml(resolved.recipe))
        self.update_record(recipe=resolved.values(), sources=resolved.sources, **changes)

    def save_sample(self, name: str, text: str) -> None:
        with self._writing(f"samples/{name}"):
            (self.path / "samples").mkdir(exist_ok=True)
            write_whole(self.path / f"samples/{name}", text + "\n")

    def save_diagnosis(self, name: str, facts: Mapping[str, object]) -> None:
        with self._writing(name):
            write_whole(self.path / name, json.dumps(facts, indent=1, default=str) + "\n")

    def append_metrics(self, row: MetricsRow) -> None:
        """Add a line to the metrics.

        Raises:
            RunError: the disk refused; a resumed run drops what was written of the line.
        """
        with self._writing(METRICS), (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_plain(row)) + "\n")

    def metrics(self) -> list[StepRow | ValidationRow]:
        """The lines of the metrics, without a last one that a crash left unfinished; none where there is no file.

        Raises:
            InputError: they cannot be read, or hold what they cannot.
        """
        path = self.path / METRICS
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}.") from error
        rows: list[StepRow | ValidationRow] = []
        for number, _, _, document in _lines(text):
            kind: type[StepRow] | type[ValidationRow] = ValidationRow if "validation" in document else StepRow
            try:
                rows.append(parse(kind, document, f"{path}, line {number}"))
            except InputError as error:
                raise InputError(f"{error} Mend the line, or remove it.") from error
        return rows

    def rewind_metrics(self, step: int) -> None:
        """Drop rows after `step`, and a last line that a crash left unfinished."""
        path = self.path / METRICS
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        kept = [line for _, line, done, _ in _lines(text) if done <= step]
        with self._writing(METRICS):
            write_whole(path, "".join(line + "\n" for line in kept))

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

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path / name} could not be written: {error.strerror}. The last checkpoint is intact; "
                f"make room, then continue with --resume --out {self.path}."
            ) from error


def _record_text(record: RunRecord) -> str:
    return json.dumps(as_plain(record), indent=1, ensure_ascii=False, default=str) + "\n"


def _lines(text: str) -> Iterator[tuple[int, str, int, dict[str, object]]]:
    """Number, text, step and content of the lines of metrics that are whole."""
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict) and isinstance(document.get("step"), int):
            yield number, line, document["step"], document


def new_record(resolved: Resolved, argv: Sequence[str]) -> RunRecord:
    """Everything needed to run it again, before there is anything to say of how it went."""
    return RunRecord(
        status="running",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        argv=tuple(argv),
        seed=resolved.recipe.seed,
        stream_version=STREAM_VERSION,
        recipe=resolved.values(),
        sources=resolved.sources,
        versions={"bd3cli": __version__, "python": platform.python_version()}
        | {name: metadata_version(name) for name in LIBRARIES},
        plugins=tuple(asdict(record) for record in load_plugins().records),
        uses=used_plugins(resolved),
        machine={
            "platform": platform.platform(),
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        git=git_state(),
    )


def used_plugins(resolved: Resolved) -> dict[str, UsedPlugin]:
    """Which distribution and version provided everything the recipe names that plugins may provide."""
    objective, data = resolved.recipe.objective, resolved.recipe.data
    specs = {"tokenizer": data.tokenizer}
    if not (data.name == "pydocs" and (data.train or data.validation or data.test)):  # files on their own
        specs["dataset"] = data.name
    if objective.traits.masks:
        specs = {"schedule": objective.schedule, "weight": objective.weight, "masking": objective.masking} | specs
    return cast("dict[str, UsedPlugin]", registered(specs))


def git_state() -> GitState | None:
    """Commit and cleanliness of the working directory's repository, if it is one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
