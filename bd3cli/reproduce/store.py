"""What a reproduction has done so far: one directory, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bd3cli.errors import InputError
from bd3cli.files import write_whole
from bd3cli.hashing import digest
from bd3cli.records import read_json
from bd3cli.reproduce.cells import Measurement, StoredMeasurement
from bd3cli.reproduce.jobs import TrainJob
from bd3cli.rng import STREAM_VERSION
from bd3cli.runs.directory import RECORD, RunDirectory


@dataclass(frozen=True)
class Store:
    """``runs/`` holds trainings by content, ``measured/`` one JSON a measurement, ``corpora/`` slices of text."""

    path: Path

    @property
    def corpora(self) -> Path:
        return self.path / "corpora"

    def run(self, job: TrainJob) -> Path:
        return self.path / "runs" / job.slug

    def state(self, job: TrainJob) -> str:
        """``finished``, ``resumable`` (it has a checkpoint) or ``absent``."""
        folder = self.run(job)
        if not (folder / RECORD).is_file():
            return "absent"
        if RunDirectory(folder).read_record().status == "finished":
            return "finished"
        return "resumable" if any((folder / "checkpoints").glob("step-*")) else "absent"

    def clear(self, job: TrainJob) -> None:
        """Remove a training that came to nothing."""
        shutil.rmtree(self.run(job), ignore_errors=True)

    def add_seconds(self, job: TrainJob, seconds: float) -> None:
        """Keep with a training how long it took, over all times it was taken up."""
        RunDirectory(self.run(job)).update_record(seconds=round(self.seconds(job) + seconds, 1))

    def seconds(self, job: TrainJob) -> float:
        """How long a training took."""
        return RunDirectory(self.run(job)).read_record().seconds

    def measured(self, name: str, key: object, measure: Callable[[], dict[str, Measurement]]) -> dict[str, Measurement]:
        """The measurements under `key`, from disk or made now.

        Args:
            name: what is measured, for the file's name.
            key: everything that decides the outcome, JSON-like.
        """
        path = self.path / "measured" / f"{name}-{digest([STREAM_VERSION, key])[:16]}.json"
        if path.is_file():
            try:
                stored = read_json(dict[str, StoredMeasurement], path)
            except InputError as error:
                raise InputError(f"{path} is damaged: {error} Delete it; it will be measured again.") from error
            return {name: Measurement.from_dict(found) for name, found in stored.items()}
        found = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({k: v.as_dict() for k, v in found.items()}))
        return found
