"""Generation: samplers that share one interface, exact key/value caching, rows that do not see each other."""

from bd3cli.sampling.base import Batch, Request, Rows, Watch
from bd3cli.sampling.blockwise import Blockwise
from bd3cli.sampling.choose import Choice
from bd3cli.sampling.generate import Sample, SampleSet, generate, stream
from bd3cli.sampling.registry import sampler_class, samplers
from bd3cli.sampling.request import make_request
from bd3cli.sampling.stopping import StopRule

__all__ = [
    "Batch",
    "Blockwise",
    "Choice",
    "Request",
    "Rows",
    "Sample",
    "SampleSet",
    "StopRule",
    "Watch",
    "generate",
    "make_request",
    "sampler_class",
    "samplers",
    "stream",
]
