"""Frequency-informed masking: rarer tokens are masked more often, at the same expected rate and unbiased."""

from __future__ import annotations

from bd3cli import hookimpl
from bd3cli.hookspecs import Register


@hookimpl
def register_maskings(register: Register) -> None:
    register("frequency", "bd3cli_frequency.frequency:FrequencyInformed")
