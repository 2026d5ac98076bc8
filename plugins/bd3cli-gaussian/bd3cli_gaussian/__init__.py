"""Noise schedules whose mask rate is normally distributed: `gaussian` and `bimodal-gaussian`."""

from __future__ import annotations

from bd3cli import hookimpl
from bd3cli.hookspecs import Register


@hookimpl
def register_noise_schedules(register: Register) -> None:
    register("gaussian", "bd3cli_gaussian.gaussian:Gaussian")
    register("bimodal-gaussian", "bd3cli_gaussian.bimodal:BimodalGaussian")
