"""Numbers with a definition and an interval: likelihoods of held-out text, and comparisons of them."""

from bd3cli.evaluation.compare import Paired, compare, compare_all, why_not_paired
from bd3cli.evaluation.estimators import Estimator, make_estimator
from bd3cli.evaluation.likelihood import Likelihood, likelihood

__all__ = [
    "Estimator",
    "Likelihood",
    "Paired",
    "compare",
    "compare_all",
    "likelihood",
    "make_estimator",
    "why_not_paired",
]
