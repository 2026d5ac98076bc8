"""The normal distribution truncated to [0, 1], accurate in both tails. Tensors are float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtri

LARGEST_LOG_SLOPE = 690.0  # just below what float64 can hold
SERIES = 1e-3  # reach of the expansions around p = 0, relative to their radius


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal(mu, sigma^2) conditioned on [0, 1], for mu in [0, 1].

    With z = (p - mu) / sigma, a = -mu / sigma and Z the mass of [0, 1] before truncation:
    distribution function F(p) = (Phi(z) - Phi(a)) / Z, density f(p) = phi(z) / (sigma Z).

    Everything is computed on the lower side, where probabilities are small numbers and not one minus small
    numbers; on the upper side, the mirror image about 1/2 is. Close to p = 0 the difference Phi(z) - Phi(a)
    cancels: F and its inverse are expanded there in powers of z - a.
    """

    mu: float
    sigma: float

    @property
    def mirror(self) -> TruncatedNormal:
        """The distribution of 1 - p."""
        return TruncatedNormal(1 - self.mu, self.sigma)

    @property
    def a(self) -> float:
        return -self.mu / self.sigma

    @property
    def mass(self) -> float:
        b = (1 - self.mu) / self.sigma
        return math.erf(b / math.sqrt(2)) / 2 - math.erf(self.a / math.sqrt(2)) / 2

    def quantile(self, t: Tensor) -> Tensor:
        """F^-1(t) for t in [0, 1], nondecreasing, with full relative precision near 0."""
        middle = max(0.5, (0.5 - _phi_integral(self.a)) / self.mass)
        return torch.where(t < middle, self._lower_quantile(t), 1 - self.mirror._lower_quantile(1 - t))

    def cdf(self, p: Tensor) -> Tensor:
        """F(p) for p in [0, 1], with full relative precision near 0."""
        middle = self.mu + self.sigma / 2
        return torch.where(p < middle, self._lower_cdf(p), 1 - self.mirror._lower_cdf(1 - p))

    def tail(self, p: Tensor) -> Tensor:
        """1 - F(p), with full relative precision near p = 1."""
        return self.mirror.cdf(1 - p)

    def log_density(self, p: Tensor) -> Tensor:
        """log f(p) for p in [0, 1]."""
        z = (p - self.mu) / self.sigma
        return -z.square() / 2 - math.log(self.sigma * self.mass * math.sqrt(2 * math.pi))

    def _lower_quantile(self, t: Tensor) -> Tensor:
        """F^-1(t), precise where that is not far above mu."""
        a = self.a
        p = self.mu + self.sigma * ndtri(_phi_integral(a) + t * self.mass)
        # dz/dt = Z / phi(z), developed in u = t Z / phi(a)
        u = t * math.exp(min(math.log(self.mass) - _log_phi(a), 700.0))
        series = u * (1 + u * (a / 2 + u * ((1 + 2 * a**2) / 6 + u * (7 * a + 6 * a**3) / 24)))
        return torch.where(u * (1 + abs(a)) < SERIES, self.sigma * series, p.clamp(0, 1))

    def _lower_cdf(self, p: Tensor) -> Tensor:
        """F(p), precise for p not far above mu."""
        a = self.a
        z, h = (p - self.mu) / self.sigma, p / self.sigma
        # torch.special.ndtr is (1 + erf) / 2, which has no digits left in the lower tail
        difference = torch.erfc(-z / math.sqrt(2)) / 2 - _phi_integral(a)
        series = h * (1 - h * (a / 2 - h * ((a**2 - 1) / 6 - h * (a**3 - 3 * a) / 24)))
        near = h * (1 + abs(a)) < SERIES
        return torch.where(near, series * math.exp(_log_phi(a)), difference) / self.mass


def slope(log_density: Tensor) -> Tensor:
    """dp/dt = 1 / f(p) of a quantile function p(t), capped where float64 would overflow."""
    return (-log_density).clamp(max=LARGEST_LOG_SLOPE).exp()


def cast_like(x: Tensor, t: Tensor) -> Tensor:
    """Float64 `x` in the dtype of `t`, with its largest number in place of infinity."""
    return x.clamp(max=torch.finfo(t.dtype).max).to(t.dtype)


def _phi_integral(z: float) -> float:
    """Phi(z), precise in the lower tail."""
    return math.erfc(-z / math.sqrt(2)) / 2


def _log_phi(z: float) -> float:
    return -(z**2) / 2 - math.log(2 * math.pi) / 2
