"""The base class of loss weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bd3cli.contract import like_input, see_to
from bd3cli.parameters import check_ranges
from bd3cli.schedules.noise import Noise


@dataclass(frozen=True)
class LossWeight:
    """A factor w_hat on the NELBO's weight, usually a function of lambda = log(alpha / (1 - alpha)).

    Subclass it as a frozen dataclass and write `weight`. The result must be finite for every alpha in
    [0, 1]: write it in terms of alpha, since lambda is -inf when everything is masked.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        see_to(cls, {"weight": like_input, "scaled": like_noise})

    def __post_init__(self) -> None:
        check_ranges(self)

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        """w_hat for alpha = 1 - p(t) and its time derivative, same shape as `alpha`."""
        raise TypeError(f"{type(self).__name__} does not define weight(alpha, dalpha_dt)")

    def scaled(self, noise: Noise) -> Tensor:
        """The product w * w_hat that multiplies the training loss, same shape as the tensors of `noise`.

        Override it when the product is simpler, or finite where its factors are not.
        """
        return noise.weight * self.weight(noise.alpha, noise.dalpha_dt)


def like_noise(instance: Any, result: Any, arguments: tuple[Any, ...]) -> str | None:
    """A floating-point tensor of the shape of the noise."""
    return like_input(instance, result, tuple(each.weight for each in arguments if isinstance(each, Noise)))
