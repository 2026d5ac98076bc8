"""For authors of plugins: check that a schedule, a loss weight, a masking, a data set or a tokenizer obeys its laws.

from bd3cli.testing import assert_laws, check_schedule

def test_laws():
    assert_laws(check_schedule(MySchedule()))

Samplers, which stand above this room, are checked by `bd3cli.sampling.checks.check_sampler`.
"""

from __future__ import annotations

from bd3cli.testing.dataset import check_dataset
from bd3cli.testing.law import Law, assert_laws
from bd3cli.testing.masking import check_masking
from bd3cli.testing.schedule import check_schedule
from bd3cli.testing.tokenizer import check_tokenizer
from bd3cli.testing.weight import check_weight

__all__ = [
    "Law",
    "assert_laws",
    "check_dataset",
    "check_masking",
    "check_schedule",
    "check_tokenizer",
    "check_weight",
]
