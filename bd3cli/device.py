"""Choose the device and the precision, and give the reason for the run record."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from bd3cli.errors import InputError


@dataclass(frozen=True)
class Precision:
    """The precision of the training step and why it was chosen."""

    name: str
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Enter it once a step: autocast caches cast weights, which go stale when the optimizer moves them."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


def choose_device(name: str) -> torch.device:
    """The device called `name`; ``auto`` takes an accelerator when there is one.

    Raises:
        InputError: unknown or absent device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device {name!r} cannot be used: {reason}. Use auto, cpu, cuda or mps.") from error
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """bf16 autocast where the hardware multiplies bf16 natively; elsewhere it would only lose digits."""
    if name != "auto":
        return Precision(name, "asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return Precision("bf16", "this GPU multiplies bfloat16 natively")
        return Precision("fp32", "this GPU has no native bfloat16")
    if device.type == "cpu" and _cpu_multiplies_bf16():
        return Precision("bf16", "this CPU multiplies bfloat16 natively")
    return Precision("fp32", f"this {device.type} device has no fast bfloat16 that is known")


def _cpu_multiplies_bf16() -> bool:
    describe: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)  # newer torch only
    capabilities = describe()
    return any(capabilities.get(key, False) for key in ("amx_bf16", "avx512_bf16", "bf16"))


def processor_name(device: str = "cpu") -> str:
    """The model of what computes: of the accelerator for ``cuda``, else of the CPU where the system tells."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
