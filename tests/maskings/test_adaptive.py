"""`adaptive`: the distribution it learns, its bounds, and which step draws from what."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bd3cli.diffusion.batch import Batch
from bd3cli.maskings import Drawn, Learner, MaskContext, Masking, MaskNoise, Observation, get_masking
from bd3cli.maskings.adaptive import Adaptive, CountLearner, CountsFrom, bin_counts, count_bins
from bd3cli.maskings.count import Count
from bd3cli.recipes.resolve import resolve
from bd3cli.rng import uniform
from bd3cli.runs.directory import RunDirectory
from bd3cli.schedules import get_schedule
from bd3cli.testing import assert_laws, check_masking
from bd3cli.training.learned import LearnedMasking
from bd3cli.training.loop import train


def seen(n: int, mean: Callable[[torch.Tensor], torch.Tensor], draws: int = 40_000, factor: float = 1.0) -> Observation:
    """Every count equally often; the mean loss of a masked token, S/k, is exactly `mean(k)`."""
    k = torch.arange(draws) % n + 1
    nll = k * mean(k.double())
    return Observation(*(x.view(1, -1) for x in (k, torch.full_like(k, n), torch.full_like(nll, factor), nll)))


def settled(n: int, mean: Callable[[torch.Tensor], torch.Tensor], **settings: Any) -> torch.Tensor:
    """q of 1..n after many observations."""
    learner = CountLearner(Adaptive(**settings), n)
    for _ in range(5):
        learner.observe(seen(n, mean))
    return learner.probabilities()[n, 1:]


@pytest.mark.parametrize("spec", ["adaptive"])
def test_laws(spec: str) -> None:
    assert_laws(check_masking(get_masking(spec)))


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_q_is_proportional_to_the_root_mean_square_loss(n: int) -> None:
    q = settled(n, lambda k: 3 / k, floor=1e-3)
    expected = 1 / torch.arange(1, n + 1).double()
    torch.testing.assert_close(q, expected / expected.sum(), rtol=0.01, atol=0)


def test_large_blocks_interpolate_between_bins() -> None:
    q = settled(128, lambda k: k.rsqrt(), floor=1e-3)
    expected = torch.arange(1, 129).double().rsqrt()
    torch.testing.assert_close(q, expected / expected.sum(), rtol=0.12, atol=0)
    assert bool((q[1:] <= q[:-1]).all())


def test_q_halves_the_second_moment_where_losses_differ() -> None:
    """sum_k E[(S/k)^2] / q(k), which q minimises: against uniform, and against its neighbours."""
    moment = torch.tensor([16.0, 4.0, 1.0, 1.0], dtype=torch.float64)
    q = settled(4, lambda k: moment.sqrt()[k.long() - 1], floor=1e-3)
    best = float((moment / q).sum())
    assert best < 0.75 * float((moment * 4).sum())
    assert best == pytest.approx(float(moment.sqrt().sum()) ** 2, rel=1e-3)
    for i in range(4):
        other = q + 0.05 * torch.eye(4, dtype=torch.float64)[i]
        assert float((moment / (other / other.sum())).sum()) > best


def test_the_floor_bounds_the_weights() -> None:
    learner = CountLearner(Adaptive(floor=0.2), 4)
    learner.observe(seen(4, lambda k: 1e6**-k))
    q = learner.probabilities()[4, 1:]
    assert 0.2 / 4 < float(q.min()) < 0.08
    assert float(q.sum()) == pytest.approx(1)
    context, noise = around(64, 8, 4), MaskNoise.draw(64, 8, 4, 0)
    draw = learner.masking().draw(noise, context)
    assert float((draw.noise.weight * draw.noise.mask_prob).max()) <= 1 / 0.2 + 1e-6  # `count` has exactly 1


def test_before_anything_is_seen_it_is_count() -> None:
    context, noise = around(16, 16, 4), MaskNoise.draw(16, 16, 4, 1)
    fresh, count = CountLearner(Adaptive(), 4).masking().draw(noise, context), Count().draw(noise, context)
    assert torch.equal(fresh.mask, count.mask)
    torch.testing.assert_close(fresh.noise.weight, count.noise.weight)


def test_each_n_has_its_own_q_and_loss_weights_count() -> None:
    learner = CountLearner(Adaptive(floor=1e-3), 4)
    for _ in range(5):
        learner.observe(seen(4, lambda k: k))
        learner.observe(seen(3, lambda k: 1 / k))
    q = learner.probabilities()
    assert bool((q[4, 1:4] < q[4, 2:5]).all())
    assert bool((q[3, 1:3] > q[3, 2:4]).all())
    torch.testing.assert_close(q[2, 1:3], torch.full((2,), 0.5).double())  # never seen
    weighted = CountLearner(Adaptive(floor=1e-3), 4)
    for _ in range(5):
        o = seen(4, lambda k: torch.ones_like(k))
        weighted.observe(Observation(o.masked, o.maskable, 1 / o.masked.double(), o.nll))
    expected = 1 / torch.arange(1, 5).double()
    torch.testing.assert_close(weighted.probabilities()[4, 1:], expected / expected.sum(), rtol=0.01, atol=0)


@pytest.mark.parametrize("n", [1, 3, 16, 128])
def test_counts_are_drawn_from_q_and_weighted_by_it(n: int) -> None:
    q = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    q[n, 1:] = uniform((n,), n) + 0.1
    q[n] /= q[n].sum()
    draw = CountsFrom(q).draw(MaskNoise.draw(20_000, n, n, 5), around(20_000, n, n))
    k = draw.mask.sum(1)
    share = torch.bincount(k, minlength=n + 1).double() / len(k)
    torch.testing.assert_close(share, q[n], rtol=0, atol=2e-4)  # stratified: one draw a cell
    torch.testing.assert_close(draw.noise.weight[:, 0], 1 / (k * q[n, k]))


def around(batch: int, length: int, block_size: int) -> MaskContext:
    tokens = torch.zeros(batch, length, dtype=torch.long)
    return MaskContext(tokens, torch.ones_like(tokens, dtype=torch.bool), block_size, get_schedule("loglinear"))


@pytest.mark.parametrize("size", [1, 2, 7, 16, 128, 1024])
def test_bins_cover_every_count_in_order(size: int) -> None:
    bins = count_bins(size)
    assert len(bins) == size + 1
    assert bins[0] == 0
    assert set(bins[1:].diff().tolist()) <= {0, 1}
    for index, count in enumerate(bin_counts(bins)):
        assert bins[count] == index


def step_losses(step: int) -> tuple[list[Batch], list[torch.Tensor]]:
    """Two micro-batches of one step: 3 blocks of 4, losses that change from step to step."""
    batches, losses = [], []
    for part in range(2):
        masked = 1 + (4 * uniform((1, 3), step, part, "masked")).long()
        index = torch.cat([4 * b + torch.arange(int(masked[0, b])) for b in range(3)])
        drawn = Drawn(masked, torch.full_like(masked, 4), torch.ones(1, 3).double())
        none = torch.zeros(len(index))
        x = torch.zeros(1, 12, dtype=torch.long)
        batches.append(Batch(x, None, index, index, none.double(), index * 0, drawn))
        losses.append(uniform((len(index),), step, part, "losses").float() * (1 + step % 5))
    return batches, losses


def test_a_window_draws_from_what_was_seen_before_the_last_one_began() -> None:
    refresh, masking = 3, Adaptive(refresh=3, memory=4, floor=0.01)
    learned = LearnedMasking.of(masking, 4)
    assert learned is not None
    used: list[Masking] = []
    for step in range(20):
        if step:
            learned.masking(step + 1)  # what the prefetching thread asks for while `step` is computed
        used.append(learned.masking(step))
        learned.observe(step, *step_losses(step))
        alone = CountLearner(masking, 4)
        known = LearnedMasking(masking, alone, 4)
        for earlier in range(max(0, step // refresh - 1) * refresh):
            known.observe(earlier, *step_losses(earlier))
        known.summary()
        assert used[-1] == alone.masking()
    assert used[5] != used[6]
    assert used[6] == used[8]


def test_state_saved_at_any_step_goes_on_alike() -> None:
    def new() -> LearnedMasking:
        learned = LearnedMasking.of(Adaptive(refresh=3, memory=4), 4)
        assert learned is not None
        return learned

    whole = new()
    states, used = [], []
    for step in range(14):
        states.append(whole.state_dict())
        used.append(whole.masking(step))
        whole.observe(step, *step_losses(step))
    for start, state in enumerate(states):
        part = new()
        part.load_state_dict(state)
        for step in range(start, 14):
            assert part.masking(step) == used[step]
            part.masking(min(step + 1, 13))
            part.observe(step, *step_losses(step))


def test_training_records_what_it_learned(tmp_path: Path, quick: tuple[str, ...]) -> None:
    overrides = [*quick, "objective.masking=adaptive:refresh=2", "train.steps=12", "train.validate_every=6"]
    train(resolve("tiny", overrides=overrides), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in rows if "masking" in row]
    assert [row["step"] for row in found] == [6, 12]
    q = found[-1]["masking"]["q"]
    assert (found[-1]["masking"]["n"], len(q)) == (4, 4)
    assert sum(q) == pytest.approx(1, abs=1e-5)
    assert len(set(q)) == 4
    record = RunDirectory(tmp_path / "run").read_record()
    assert record.progress.masking["q"] == q
    tokens = [row["masked_tokens"] for row in rows]
    assert tokens == sorted(tokens)
    assert tokens[-1] == record.progress.masked_tokens
    # 16 sequences of 31 predicted tokens a step, a little more than half of them masked
    assert 0.5 < tokens[-1] / (12 * 16 * 31) < 0.75


@dataclass(frozen=True)
class Forgetful(Adaptive):
    """Its learner saves nothing."""

    def learner(self, block_size: int) -> Learner:
        class Bad(CountLearner):
            def load_state_dict(self, state: dict[str, Any]) -> None:
                pass

        return Bad(self, block_size)


@dataclass(frozen=True)
class Biased(Adaptive):
    """Its learner's masking has the weights of `count` and not its counts."""

    def learner(self, block_size: int) -> Learner:
        class Bad(CountLearner):
            def probabilities(self) -> torch.Tensor:
                q = super().probabilities()
                return q * (1 + torch.arange(len(q)) / 10)

        return Bad(self, block_size)


@pytest.mark.parametrize(("masking", "text"), [(Forgetful(), "goes on differently"), (Biased(), "unbiased")])
def test_a_bad_learner_fails_the_law(masking: Masking, text: str) -> None:
    failed = [law for law in check_masking(masking) if not law.ok]
    assert [law.law for law in failed] == ["learns"]
    assert text in failed[0].detail


def test_losses_that_are_no_numbers_leave_q_uniform() -> None:
    learner = CountLearner(Adaptive(), 4)
    learner.observe(seen(4, lambda k: torch.full_like(k, math.nan)))
    torch.testing.assert_close(learner.probabilities()[4, 1:], torch.full((4,), 0.25).double())
