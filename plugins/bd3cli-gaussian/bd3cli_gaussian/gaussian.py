"""`gaussian`: the mask rate is normally distributed, truncated to [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bd3cli.parameters import parameter
from bd3cli.schedules import NoiseSchedule
from bd3cli_gaussian.truncated import TruncatedNormal, cast_like, slope


@dataclass(frozen=True)
class Gaussian(NoiseSchedule):
    """p(t) is the quantile function of Normal(mu, sigma^2) truncated to [0, 1].

    Training therefore spends its time at mask rates around mu; the weight p'/p makes up for it.
    """

    mu: float = parameter(0.5, "mean of the mask rate before truncation", low=0.0, high=1.0)
    sigma: float = parameter(0.1, "its standard deviation (not variance)", low=0.01, high=10.0)

    def mask_prob(self, t: Tensor) -> Tensor:
        return self._normal.quantile(t.double()).to(t.dtype)

    def rate(self, t: Tensor) -> Tensor:
        return cast_like(self._p_and_rate(t.double())[1], t)

    def weight(self, t: Tensor) -> Tensor:
        p, rate = self._p_and_rate(t.double())
        return cast_like(rate / p, t)

    @property
    def _normal(self) -> TruncatedNormal:
        return TruncatedNormal(self.mu, self.sigma)

    def _p_and_rate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        p = self._normal.quantile(t)
        return p, slope(self._normal.log_density(p))
