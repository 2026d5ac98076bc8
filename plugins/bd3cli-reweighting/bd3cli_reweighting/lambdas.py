"""Weights that are functions of lambda = log(alpha / (1 - alpha)), written in alpha where that is finite."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bd3cli.parameters import parameter
from bd3cli.weights import LossWeight

EXTREME_LAMBDA = 1e3  # beyond it the EDM weight is zero to the last digit


@dataclass(frozen=True)
class EDM(LossWeight):
    """N(lambda; mean, std^2) (e^-lambda + s^2) / s^2, with s the standard deviation of the data.

    Zero at both ends. Close to lambda = -inf the growing factor and the density are combined in log space.
    """

    mean: float = parameter(2.4, "mean of the normal density over lambda", low=-10.0, high=10.0)
    std: float = parameter(2.4, "standard deviation of that density", low=0.1, high=5.0)
    data_std: float = parameter(0.5, "standard deviation s of the data", low=0.01, high=10.0)

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        a = alpha.double()
        lam = (a.log() - (-a).log1p()).clamp(-EXTREME_LAMBDA, EXTREME_LAMBDA)
        log_s2 = 2 * math.log(self.data_std)
        log_norm = math.log(self.std * math.sqrt(2 * math.pi))
        log_density = -((lam - self.mean) / self.std).square() / 2 - log_norm
        log_factor = torch.logaddexp(-lam, torch.full_like(lam, log_s2)) - log_s2
        return (log_density + log_factor).exp().to(alpha.dtype)


@dataclass(frozen=True)
class IDDPM(LossWeight):
    """sech(lambda / 2) = 2 sqrt(alpha (1 - alpha)): zero when nothing or everything is masked."""

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return 2 * (alpha * (1 - alpha)).sqrt()


@dataclass(frozen=True)
class Sigmoid(LossWeight):
    """sigmoid(k - lambda) = (1 - alpha) / (1 - alpha + alpha e^-k): large k weighs all mask rates alike."""

    k: float = parameter(0.0, "shift; 0 gives the mask probability itself", low=-50.0, high=50.0)

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        return (1 - alpha) / (1 - alpha + alpha * math.exp(-self.k))


@dataclass(frozen=True)
class FlowMatching(LossWeight):
    """e^(-lambda / 2) = sqrt((1 - alpha) / alpha), capped: it would be infinite when everything is masked."""

    cap: float = parameter(10.0, "largest weight, from mask rate cap^2 / (1 + cap^2) on", low=1.0, high=1e6)

    def weight(self, alpha: Tensor, dalpha_dt: Tensor) -> Tensor:
        # alpha = 0 gives 1 / 0 = inf, which the cap removes
        return ((1 - alpha) / alpha).sqrt().clamp(max=self.cap)
