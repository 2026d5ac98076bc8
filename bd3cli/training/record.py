"""The run directory: what was asked, with which software and data, and what came of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bd3cli import __version__
from bd3cli.errors import InputError
from bd3cli.plugins import load_plugins, metadata_version
from bd3cli.registry import Registry
from bd3cli.resolve import Resolved, to_toml
from bd3cli.spec import parse_spec

RECORD, RECIPE, METRICS = "run.json", "recipe.toml", "metrics.jsonl"
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
            (self.path / RECIPE).write_text(to_toml(resolved.recipe), encoding="utf-8")
            self.write_record(record)
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

    def write_record(self, record: dict[str, Any]) -> None:
        part = self.path / f".{RECORD}.part-{os.getpid()}"
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        part.replace(self.path / RECORD)

    def update_record(self, **changes: Any) -> None:
        self.write_record(self.read_record() | changes)

    def save_sample(self, name: str, text: str) -> None:
        folder = self.path / "samples"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text + "\n", encoding="utf-8")

    def append_metrics(self, row: dict[str, Any]) -> None:
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Drop rows after `step`, and a last line that a crash left unfinished."""
        path = self.path / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def new_record(resolved: Resolved, argv: list[str], **facts: Any) -> dict[str, Any]:
    """Everything needed to run it again and to know what it was."""
    return {
        "schema": 1,
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": argv,
        "seed": resolved.recipe.seed,
        "recipe": resolved.values(),
        "sources": resolved.sources,
        "versions": {"bd3cli": __version__, "python": platform.python_version()}
        | {name: metadata_version(name) for name in LIBRARIES},
        "plugins": [asdict(record) for record in load_plugins().records],
        "uses": used_plugins(resolved),
        "machine": {
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "git": git_state(),
        **facts,
    }


def used_plugins(resolved: Resolved) -> dict[str, dict[str, str]]:
    """Which distribution and version provided each plugin the objective names."""
    if resolved.recipe.objective.family == "ar":
        return {}
    plugins, objective = load_plugins(), resolved.recipe.objective
    registries: dict[str, Registry[Any]] = {
        "schedule": plugins.schedules,
        "weight": plugins.weights,
        "masking": plugins.maskings,
    }
    used = {}
    for kind, registry in registries.items():
        entry = registry.entry(parse_spec(getattr(objective, kind)).name)
        used[kind] = {"name": entry.name, "distribution": entry.distribution, "version": entry.version}
    return used


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
