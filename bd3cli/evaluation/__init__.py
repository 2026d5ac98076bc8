"""Numbers with a definition and an interval: likelihoods of held-out text."""

from bd3cli.evaluation.estimators import Estimator, make_estimator
from bd3cli.evaluation.likelihood import Likelihood, likelihood

__all__ = ["Estimator", "Likelihood", "likelihood", "make_estimator"]
