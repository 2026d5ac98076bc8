"""For authors of plugins: check that a schedule, a loss weight or a masking obeys its laws.

from bd3cli.testing import assert_laws, check_schedule

def test_laws():
    assert_laws(check_schedule(MySchedule()))
"""

from __future__ import annotations

from bd3cli.testing.law import Law, assert_laws
from bd3cli.testing.masking import check_masking
from bd3cli.testing.schedule import check_schedule
from bd3cli.testing.weight import check_weight

__all__ = ["Law", "assert_laws", "check_masking", "check_schedule", "check_weight"]
