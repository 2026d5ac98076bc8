"""The hooks a plugin may implement. Each receives `register` and calls it once for every name it adds.

`register(name, target)` takes a lower-case name and either a class or ``"package.module:Class"``; the
string form is imported only when the name is used, which keeps ``bd3cli --help`` instant.
"""

from __future__ import annotations

from typing import Protocol

import pluggy

__all__ = ["ENTRY_POINT_GROUP", "Register", "hookimpl"]

PROJECT = "bd3cli"
ENTRY_POINT_GROUP = "bd3cli"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """Callback handed to every hook."""

    def __call__(self, name: str, target: str | type) -> None: ...


@hookspec
def register_noise_schedules(register: Register) -> None:
    """Register subclasses of `bd3cli.schedules.NoiseSchedule`."""


@hookspec
def register_loss_weights(register: Register) -> None:
    """Register subclasses of `bd3cli.weights.LossWeight`."""


@hookspec
def register_maskings(register: Register) -> None:
    """Register subclasses of `bd3cli.maskings.Masking`, which choose the masks of a training batch."""


@hookspec
def register_samplers(register: Register) -> None:
    """Register subclasses of `bd3cli.sampling.Batch`, which generate; most are ones of `Blockwise`."""


@hookspec
def register_datasets(register: Register) -> None:
    """Register subclasses of `bd3cli.data.Corpus`, or by their place `bd3cli.data.DatasetInfo` objects of the hub."""


@hookspec
def register_tokenizers(register: Register) -> None:
    """Register subclasses of `bd3cli.data.Tokenizer`; most are ones of `VocabularyTokenizer`."""
