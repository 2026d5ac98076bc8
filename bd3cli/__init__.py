"""Block diffusion language models: train, evaluate, sample, and extend with plugins.

Importing this package is cheap: torch and the rest are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bd3cli.hookspecs import hookimpl
from bd3cli.version import __version__

if TYPE_CHECKING:
    from bd3cli.runs import Run

__all__ = ["Run", "__version__", "hookimpl", "load"]


def load(path: str, *, checkpoint: str = "best", device: str = "auto", attention: str = "auto") -> Run:
    """Load a run directory (or an upstream-layout checkpoint directory) for evaluation and sampling.

    Args:
        path: a directory written by ``bd3cli train``, or one holding ``config.json`` and
            ``model.safetensors`` in the layout of the paper's released checkpoints.
        checkpoint: ``best``, ``last`` or the name of a checkpoint such as ``step-00000500``.
        device: ``auto``, ``cpu``, ``cuda`` ...
        attention: attention backend, see `bd3cli.attention`.

    Raises:
        InputError: when the directory, the checkpoint or a plugin it needs cannot be used.
    """
    from bd3cli.runs import Run

    return Run.load(path, checkpoint=checkpoint, device=device, attention=attention)


def __getattr__(name: str) -> Any:
    if name == "Run":
        from bd3cli.runs import Run

        return Run
    raise AttributeError(f"module 'bd3cli' has no attribute {name!r}")
