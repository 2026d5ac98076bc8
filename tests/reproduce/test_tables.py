"""The published tables as data."""

from __future__ import annotations

import re

import pytest

from bd3cli.errors import InputError
from bd3cli.recipes.resolve import resolve
from bd3cli.reproduce.cells import Measurement, combine
from bd3cli.reproduce.jobs import TrainJob, row_jobs, train_job
from bd3cli.reproduce.scales import SCALES
from bd3cli.reproduce.tables import Table, load_table, parse_claims, table_names
from bd3cli.reproduce.tasks import Measuring, Text, Training, plan

TEXTS = {"lm1b": Text("one"), "openwebtext": Text("another")}


def trainings(tables: list[Table], scale: str = "smoke", seeds: tuple[int, ...] = (0,)) -> list[TrainJob]:
    return [task.job for task in plan(tables, SCALES[scale], seeds, TEXTS) if isinstance(task, Training)]


@pytest.mark.parametrize("name", table_names())
@pytest.mark.parametrize("scale", sorted(SCALES))
def test_every_row_is_a_recipe_that_works(name: str, scale: str) -> None:
    table = load_table(name)
    for row in table.rows:
        for job in row_jobs(table, row, SCALES[scale], seed=0):
            for part in job.chain():
                resolved = resolve(None, {k: (v, "table") for k, v in part.settings}, environment={})
                assert resolved.recipe.train.steps == part.steps


def test_every_row_of_a_table_sees_the_same_number_of_steps() -> None:
    for scale in SCALES.values():
        for name in table_names():
            table = load_table(name)
            totals = {
                sum(part.steps for part in job.chain()) for row in table.rows for job in row_jobs(table, row, scale, 0)
            }
            assert totals == {scale.steps}


def test_rows_that_agree_share_one_training() -> None:
    clipped, noise = load_table("clipped-schedules"), load_table("noise-schedules")
    both = trainings([clipped, noise])
    alone = [*trainings([clipped]), *trainings([noise])]
    shared = {job.key for job in trainings([clipped])} & {job.key for job in trainings([noise])}
    # MDLM pretraining, and the linear and U[.3, .8] rows of both block sizes
    assert len(shared) == 5
    assert len(both) == len(alone) - len(shared)
    assert len({job.slug for job in both}) == len(both)


def test_tables_of_different_text_share_nothing() -> None:
    lm1b, owt = load_table("lm1b-families"), load_table("owt-families")
    assert len(trainings([lm1b, owt])) == len(trainings([lm1b])) + len(trainings([owt]))


def test_what_a_task_needs_stands_before_it_and_every_cell_is_measured_once() -> None:
    tables = [load_table(name) for name in table_names()]
    tasks, seen = plan(tables, SCALES["cpu"], (0, 1), TEXTS), set[str]()
    for task in tasks:
        assert seen.issuperset(task.needs)
        assert task.name not in seen
        seen.add(task.name)
    measured = [task for task in tasks if isinstance(task, Measuring)]
    assert len(measured) == 2 * sum(len(table.rows) for table in tables)


def test_without_text_nothing_is_trained() -> None:
    table = load_table("single-token")
    tasks = plan([table], SCALES["cpu"], (0,), {"lm1b": Text("", "no data: none here")})
    assert [type(task) for task in tasks] == [Measuring] * len(table.rows)
    assert not any(task.needs for task in tasks)


def test_seed_scale_clip_and_parent_decide_the_training() -> None:
    table, scale = load_table("lm1b-families"), SCALES["smoke"]
    base = {"family": "bd3lm", "block_size": 4, "masking": "bernoulli"}
    jobs = [
        train_job(table, base, scale, 0),
        train_job(table, base, scale, 1),
        train_job(table, base, SCALES["cpu"], 0),
        train_job(table, {**base, "clip": [0.3, 0.8]}, scale, 0),
        train_job(table, base, scale, 0, pretrain={"family": "mdlm", "masking": "bernoulli"}),
    ]
    assert len({job.key for job in jobs}) == len(jobs)


def test_claims_name_neighbours() -> None:
    first, second = parse_claims("ppl: a < b = c", ["a", "b", "c"])
    assert (first.first, first.relation, first.second) == ("a", "<", "b")
    assert (second.first, second.relation, second.second) == ("b", "=", "c")
    with pytest.raises(AssertionError, match="unknown rows"):
        parse_claims("ppl: a < d", ["a"])


def test_published_numbers_are_those_of_measures_the_table_has() -> None:
    for name in table_names():
        table = load_table(name)
        for row in table.rows:
            assert set(row.paper) | set(row.reproduction) <= set(table.measures)
        assert {claim.measure for claim in table.claims} <= set(table.measures)


def test_the_placeholders_of_the_reproduction_are_not_quoted() -> None:
    assert not any(row.reproduction for row in load_table("sample-quality").rows)


def test_unknown_table_suggests_one() -> None:
    with pytest.raises(InputError, match=re.escape("Did you mean 'zero-shot'?")):
        load_table("zeroshot")


def test_a_cell_over_seeds_and_one_without_data() -> None:
    cell = combine([Measurement(1.0), Measurement(2.0), Measurement(3.0)], logarithmic=False)
    assert cell.value == pytest.approx(2.0)
    # t(0.975, 2) / sqrt(3) = 4.3027 / 1.7321
    assert cell.ci95 == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert combine([Measurement(1.0), Measurement(None, note="no file")], logarithmic=False).value is None
    assert combine([Measurement(0.0)], logarithmic=True).value == 1.0
