"""Loss weights from the diffusion literature: `edm`, `iddpm`, `sigmoid`, `fm` and `simple`."""

from __future__ import annotations

from bd3cli import hookimpl
from bd3cli.hookspecs import Register


@hookimpl
def register_loss_weights(register: Register) -> None:
    for name, cls in (("edm", "EDM"), ("iddpm", "IDDPM"), ("sigmoid", "Sigmoid"), ("fm", "FlowMatching")):
        register(name, f"bd3cli_reweighting.lambdas:{cls}")
    register("simple", "bd3cli_reweighting.simple:Simple")
