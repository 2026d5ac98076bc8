"""`bimodal-gaussian`: the mask rate follows a mixture of two truncated normals."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bd3cli.parameters import parameter
from bd3cli.schedules import NoiseSchedule
from bd3cli_gaussian.mixture import Mixture
from bd3cli_gaussian.truncated import TruncatedNormal, cast_like, slope


@dataclass(frozen=True)
class BimodalGaussian(NoiseSchedule):
    """The mask rate is drawn from w1 TN(mu1, sigma1) + (1 - w1) TN(mu2, sigma2), each truncated to [0, 1].

    ``form=mixture``: p(t) is the quantile function of the mixture, monotone like any schedule.

    ``form=piecewise``: t < w1 runs through the first component and t >= w1 through the second, as published.
    Every mask rate is then visited twice, so p'/p would integrate to twice the NELBO; declaring two sweeps
    halves the weight. It draws the same mask rates, but splits the weight of each between the components
    instead of sharing it, which has a higher variance.
    """

    mu1: float = parameter(0.3, "mean of the first component", low=0.0, high=1.0)
    sigma1: float = parameter(0.02, "its standard deviation (not variance)", low=0.01, high=10.0)
    mu2: float = parameter(0.85, "mean of the second component", low=0.0, high=1.0)
    sigma2: float = parameter(0.08, "its standard deviation (not variance)", low=0.01, high=10.0)
    w1: float = parameter(0.6, "probability of the first component", low=0.001, high=0.999)
    mu2_start: float | None = parameter(
        None, "mu2 when training begins: mu2 - (mu2 - mu2_start) exp(-3 progress)", low=0.0, high=1.0
    )
    form: Literal["mixture", "piecewise"] = parameter("mixture", "how the two components share [0, 1]")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("mixture", "piecewise"):
            raise ValueError(f"form must be 'mixture' or 'piecewise', not {self.form!r}.")

    @property
    def sweeps(self) -> int:  # type: ignore[override]
        return 2 if self.form == "piecewise" else 1

    @property
    def components(self) -> tuple[TruncatedNormal, TruncatedNormal]:
        return TruncatedNormal(self.mu1, self.sigma1), TruncatedNormal(self.mu2, self.sigma2)

    def at_progress(self, fraction: float) -> BimodalGaussian:
        """mu2 in effect once `fraction` of the training steps are done."""
        if self.mu2_start is None:
            return self
        mu2 = self.mu2 - (self.mu2 - self.mu2_start) * math.exp(-3 * fraction)
        return dataclasses.replace(self, mu2=mu2, mu2_start=None)

    def mask_prob(self, t: Tensor) -> Tensor:
        return self._p_and_rate(t.double())[0].to(t.dtype)

    def rate(self, t: Tensor) -> Tensor:
        return cast_like(self._p_and_rate(t.double())[1], t)

    def weight(self, t: Tensor) -> Tensor:
        p, rate = self._p_and_rate(t.double())
        return cast_like(rate / (self.sweeps * p), t)

    def _p_and_rate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._piecewise(t) if self.form == "piecewise" else self._mixture(t)

    def _piecewise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.components
        w2 = 1 - self.w1
        p1 = first.quantile((t / self.w1).clamp(max=1))
        p2 = second.quantile(((t - self.w1) / w2).clamp(0, 1))
        rates = slope(first.log_density(p1)) / self.w1, slope(second.log_density(p2)) / w2
        return torch.where(t < self.w1, p1, p2), torch.where(t < self.w1, *rates)

    def _mixture(self, t: Tensor) -> tuple[Tensor, Tensor]:
        mixture = Mixture(*self.components, self.w1)
        p = mixture.quantile(t.detach())
        rate = slope(mixture.log_density(p))
        # The search for p is invisible to automatic differentiation: give it its derivative.
        return p + rate * (t - t.detach()), rate
