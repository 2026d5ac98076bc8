"""Generation: samplers that share one interface, exact key/value caching, rows that do not see each other."""

from bd3cli.sampling.base import Request, Sample, SampleSet
from bd3cli.sampling.generate import generate

__all__ = ["Request", "Sample", "SampleSet", "generate"]
