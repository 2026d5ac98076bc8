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
        return TruncatedNormal(self.mu, self.sigma).quantile(t.double()).to(t.dtype)

    def rate(self, t: Tensor) -> Tensor:
        return cast_like(self._rate(t.double()), t)

    def weight(self, t: Tensor) -> Tensor:
        x = t.double()
        return cast_like(self._rate(x) / self.mask_prob(x), t)

    def _rate(self, t: Tensor) -> Tensor:
        normal = TruncatedNormal(self.mu, self.sigma)
        return slope(normal.log_density(normal.quantile(t)))
