"""Every training of the published tables begins: what it trains under passes the laws looked at before step 1."""

from __future__ import annotations

import time

from bd3cli.recipes.resolve import resolve
from bd3cli.recipes.settings import ObjectiveConfig
from bd3cli.reproduce.jobs import row_jobs
from bd3cli.reproduce.scales import SCALES
from bd3cli.reproduce.tables import load_table, table_names
from bd3cli.testing import training as before


def objectives() -> list[ObjectiveConfig]:
    """That of each training of every table, repeats included."""
    return [
        resolve(None, {k: (v, "table") for k, v in part.settings}, environment={}).recipe.objective
        for table in map(load_table, table_names())
        for row in table.rows
        for job in row_jobs(table, row, SCALES["smoke"], seed=0)
        for part in job.chain()
    ]


def test_every_row_of_the_tables_is_lawful_and_one_look_a_specification_is_all_it_costs(monkeypatch) -> None:
    """One of them, piecewise with mu1 = 0.1, the law `invariance` once took for unlawful."""
    monkeypatch.setattr(before, "_lawful", set())
    every = objectives()
    assert {text for objective in every for text in before.broken_laws(objective)} == set()
    clock = time.process_time()
    for objective in every:
        before.broken_laws(objective)
    again = (time.process_time() - clock) / len(every)
    assert again < 0.01  # seconds a training
