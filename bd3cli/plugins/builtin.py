"""What the core ships, registered through the same hooks third parties use."""

from __future__ import annotations

from bd3cli.hookspecs import Register, hookimpl


@hookimpl
def register_noise_schedules(register: Register) -> None:
    for name, cls in (
        ("loglinear", "LogLinear"),
        ("square", "Square"),
        ("sqrt", "SquareRoot"),
        ("log", "Logarithmic"),
        ("cosine", "Cosine"),
        ("full", "Full"),
    ):
        register(name, f"bd3cli.schedules.builtin:{cls}")


@hookimpl
def register_loss_weights(register: Register) -> None:
    register("none", "bd3cli.weights.builtin:Unweighted")


@hookimpl
def register_maskings(register: Register) -> None:
    register("bernoulli", "bd3cli.maskings.bernoulli:Bernoulli")
    register("count", "bd3cli.maskings.count:Count")
    register("adaptive", "bd3cli.maskings.adaptive:Adaptive")
