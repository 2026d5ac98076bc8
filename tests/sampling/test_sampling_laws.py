"""Samplers against distributions enumerated independently, and tokens against their probabilities.

The default tier draws 8,000 samples, the slow one 100,000.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy import stats

from bd3cli.sampling import Choice, Request, sampler_class
from bd3cli.sampling.base import ignore
from bd3cli.sampling.choose import CELL, choose_tokens, inverse, kept_tokens

Law = dict[tuple[int, ...], float]
SIZES = [8_000, pytest.param(100_000, marks=pytest.mark.slow)]
MASK, HEAT = 3, 2.0  # three tokens and the mask; a temperature that leaves every outcome likely enough to count


def draw(model, n: int, sampler: str, length: int = 4, prompt: tuple[int, ...] = (1,), **options) -> Counter:
    request = Request(length, prompt, sampler, Choice(temperature=options.pop("temperature", HEAT)), **options)
    found: Counter = Counter()
    with torch.inference_mode():
        for start in range(0, n, 20_000):
            batch = sampler_class(sampler)(model, request, list(range(start, min(n, start + 20_000))))
            while batch.rows:
                batch.step(ignore)
                found.update(tuple(row.tokens.tolist()) for row in batch.finish())
    assert found.total() == n
    return found


def p_value(found: Counter, law: Law) -> float:
    n = found.total()
    assert sum(law.values()) == pytest.approx(1)
    assert set(found) <= set(law)
    assert min(law.values()) * n > 5
    keys = sorted(law)
    return float(stats.chisquare([found[k] for k in keys], [law[k] * n for k in keys]).pvalue)


class Denoiser:
    """Token probabilities [n, 3] of every position given a partly masked block, from a pass over nothing else."""

    def __init__(self, model) -> None:
        self.model, self.known = model, {}

    def __call__(self, x: tuple[int, ...]) -> torch.Tensor:
        if x not in self.known:
            tokens = torch.tensor([x])
            clean = tokens if self.model.config.family == "bd3lm" else None
            with torch.inference_mode():
                logits = self.model.logits(self.model(tokens, clean))[0, :, :MASK].double()
            self.known[x] = (logits / HEAT).softmax(-1)
        return self.known[x]


def in_groups(denoise: Denoiser, prompt: tuple[int, ...], length: int, groups: list[list[int]]) -> Law:
    """Revealing groups of positions one after the other, independently within a group."""
    states: Law = {prompt + (MASK,) * (length - len(prompt)): 1.0}
    for group in groups:
        following: Law = {}
        for x, p in states.items():
            probs = denoise(x)
            for values in itertools.product(range(MASK), repeat=len(group)):
                y, q = list(x), p
                for position, value in zip(group, values, strict=True):
                    y[position], q = value, q * probs[position, value].item()
                following[tuple(y)] = following.get(tuple(y), 0.0) + q
        states = following
    return states


def mixture(laws: list[tuple[float, Law]]) -> Law:
    total: Law = {}
    for weight, law in laws:
        for x, p in law.items():
            total[x] = total.get(x, 0.0) + weight * p
    return total


def any_order(denoise: Denoiser, prompt: tuple[int, ...], length: int) -> Law:
    """The network's own distribution of a block: a uniformly random order of revealing."""
    free = range(len(prompt), length)
    orders = list(itertools.permutations(free))
    return mixture([(1 / len(orders), in_groups(denoise, prompt, length, [[i] for i in o])) for o in orders])


def in_cells(denoise: Denoiser, prompt: tuple[int, ...], length: int, steps: int) -> Law:
    """Ancestral sampling: every position falls into one of `steps` cells at random."""
    free = range(len(prompt), length)
    laws = []
    for cells in itertools.product(range(steps), repeat=len(free)):
        groups = [[i for i, c in zip(free, cells, strict=True) if c == k] for k in sorted(set(cells))]
        laws.append((steps ** -len(free), in_groups(denoise, prompt, length, groups)))
    return mixture(laws)


def distance(a: Law, b: Law) -> float:
    return sum(abs(a[x] - b[x]) for x in a) / 2


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("family", ["bd3lm", "mdlm"])
def test_first_hitting_samples_the_exact_joint(make_model, family, n) -> None:
    model = make_model(family, length=4, block_size=4, vocab=4)
    assert p_value(draw(model, n, "first-hitting"), any_order(Denoiser(model), (1,), 4)) > 1e-3


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("steps", [1, 2])
def test_ancestral_samples_its_own_law_and_no_other(make_model, steps, n) -> None:
    model = make_model("bd3lm", length=4, block_size=4, vocab=4)
    found, denoise = draw(model, n, "ancestral", steps=steps), Denoiser(model)
    assert p_value(found, in_cells(denoise, (1,), 4, steps)) > 1e-3
    if steps == 1 and n == 100_000:
        assert p_value(found, any_order(denoise, (1,), 4)) < 1e-6, "the test sees the error of few steps"


def test_ancestral_converges_to_the_joint(make_model) -> None:
    """Total variation distance about proportional to 1 / T, and indistinguishable at T = 1000."""
    model = make_model("bd3lm", length=4, block_size=4, vocab=4)
    denoise = Denoiser(model)
    exact = any_order(denoise, (1,), 4)
    errors = [distance(in_cells(denoise, (1,), 4, steps), exact) for steps in (1, 2, 4, 8, 16)]
    assert all(0.4 < b / a < 0.7 for a, b in itertools.pairwise(errors)), errors
    assert p_value(draw(model, 8_000, "ancestral", steps=1000), exact) > 1e-3


@pytest.mark.parametrize("n", SIZES)
def test_confidence_with_a_threshold_nobody_passes_goes_from_the_surest(make_model, n) -> None:
    model = make_model("bd3lm", length=4, block_size=4, vocab=4)
    denoise = Denoiser(model)
    states: Law = {(1, MASK, MASK, MASK): 1.0}
    for _ in range(3):
        laws = []
        for x, p in states.items():
            top = denoise(x).amax(-1)
            surest = max((i for i in range(4) if x[i] == MASK), key=lambda i: top[i].item())
            following = {
                (*x[:surest], value, *x[surest + 1 :]): denoise(x)[surest, value].item() for value in range(MASK)
            }
            laws.append((p, following))
        states = mixture(laws)
    assert p_value(draw(model, n, "confidence", threshold=1.0), states) > 1e-3


def test_confidence_with_no_threshold_is_one_step(make_model) -> None:
    model = make_model("bd3lm", length=4, block_size=4, vocab=4)
    law = in_groups(Denoiser(model), (1,), 4, [[1, 2, 3]])
    assert p_value(draw(model, 8_000, "confidence", threshold=0.0), law) > 1e-3


def test_a_network_that_sees_time_is_told_when(make_model) -> None:
    """Two free positions. First-hitting: the mask probability at the first reveal is the larger of two uniforms,
    so its law mixes networks at all noise levels; ancestral with one step asks at mask probability 1 only."""
    from bd3cli.diffusion.conditioning import noise_level

    model = make_model("mdlm", length=3, vocab=4, time_conditioning=True)

    def probs(x: list[list[int]], t: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits = model.logits(model(torch.tensor(x), None, noise_level(t).float()))[..., :MASK].double()
        return (logits / HEAT).softmax(-1)

    grid = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    law: Law = {}
    for first, second in ((1, 2), (2, 1)):
        late, early = torch.meshgrid(grid, grid, indexing="ij")  # t1 = late ** 0.5 has the density 2 t of a maximum
        t1, t2 = late.flatten() ** 0.5, (late**0.5 * early).flatten()
        p1 = probs([[1, MASK, MASK]] * len(t1), t1)[:, first]
        for a in range(MASK):
            x = [1, MASK, MASK]
            x[first] = a
            p2 = probs([x] * len(t2), t2)[:, second]
            for b in range(MASK):
                y = list(x)
                y[second] = b
                law[tuple(y)] = law.get(tuple(y), 0.0) + 0.5 * (p1[:, a] * p2[:, b]).mean().item()
    assert p_value(draw(model, 8_000, "first-hitting", length=3), law) > 1e-3
    p = probs([[1, MASK, MASK]], torch.ones(1, dtype=torch.float64))[0]
    once = {(1, a, b): (p[1, a] * p[2, b]).item() for a in range(MASK) for b in range(MASK)}
    assert p_value(draw(model, 8_000, "ancestral", length=3, steps=1), once) > 1e-3


@pytest.mark.parametrize("n", SIZES)
def test_ar_samples_the_chain_rule(make_model, n) -> None:
    model = make_model("ar", length=4, vocab=4)
    law: Law = {}
    for values in itertools.product(range(MASK), repeat=3):
        x = (1, *values)
        with torch.inference_mode():
            logits = model.logits(model(torch.tensor([x])))[0, :, :MASK].double()
        log_p = (logits / HEAT).log_softmax(-1)
        law[x] = math.exp(sum(log_p[i, x[i + 1]].item() for i in range(3)))
    assert p_value(draw(model, n, "ar"), law) > 1e-3


def score_transition(model, x: tuple[int, ...], sigma: float, following: float) -> list[dict[int, float]]:
    """Tweedie's formula for each position, from the staggered score and the forward transition (Lou et al. 2024)."""
    from bd3cli.diffusion.sedd import log_scores

    tokens, level = torch.tensor([x]), torch.tensor([sigma])
    with torch.inference_mode():
        score = log_scores(model.logits(model(tokens, None, level)), tokens, level)[0].double().exp()
    d = sigma - following
    out = []
    for i, token in enumerate(x):
        if token != MASK:
            out.append({token: 1.0})
            continue
        stag = score[i] * math.exp(d)
        stag[MASK] += (1 - math.exp(d)) * score[i].sum()
        kernel = torch.full((MASK + 1,), 1 - math.exp(-d), dtype=torch.float64)
        kernel[MASK] = 1.0
        probs = (stag * kernel).clamp_min(0)
        if following == 0:
            probs[MASK] = 0
        out.append(dict(enumerate((probs / probs.sum()).tolist())))
    return out


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("steps", [1, 3])
def test_analytic_samples_the_enumerated_chain(make_model, steps, n) -> None:
    """The sampler's Markov chain over all partly masked sequences of a random SEDD network, step by step."""
    model = make_model("sedd", length=3, vocab=4, time_conditioning=True)
    with torch.no_grad():
        model.output_layer.linear.weight.mul_(0.1)
    states: Law = {(1, MASK, MASK): 1.0}
    levels = [-math.log1p(-min(1 - i / steps, 0.999)) for i in range(steps + 1)]
    for sigma, following in itertools.pairwise(levels):
        laws = []
        for x, p in states.items():
            choices = score_transition(model, x, sigma, following)
            nexts: Law = {}
            for values in itertools.product(*(c.items() for c in choices)):
                y, q = tuple(v for v, _ in values), math.prod(w for _, w in values)
                if q > 0:
                    nexts[y] = nexts.get(y, 0.0) + q
            laws.append((p, nexts))
        states = mixture(laws)
    assert all(MASK not in x for x in states)
    assert p_value(draw(model, n, "analytic", length=3, steps=steps, temperature=1.0), states) > 1e-3


class TwoTokens(torch.nn.Module):
    """A network whose scores are exact for a joint distribution of two tokens after a given first one."""

    def __init__(self, model, joint: torch.Tensor) -> None:
        super().__init__()
        self.config, self.joint, self.anchor = model.config, joint, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x_t, x_0, sigma):
        from bd3cli.diffusion.sedd import log_scores

        a = self.joint.sum(1).float().expand(len(x_t), -1).clone()
        b = self.joint.sum(0).float().expand(len(x_t), -1).clone()
        for value in range(MASK):
            a[x_t[:, 2] == value] = (self.joint[:, value] / self.joint[:, value].sum()).float()
            b[x_t[:, 1] == value] = (self.joint[value] / self.joint[value].sum()).float()
        probs = torch.stack((torch.full_like(a, 1 / MASK), a, b), 1)
        score = probs.log() - torch.expm1(sigma).log().view(-1, 1, 1)
        zero = torch.zeros(*x_t.shape, MASK + 1)
        shift = -log_scores(zero, torch.full_like(x_t, MASK), sigma)[..., :1]
        return torch.cat((score + shift, torch.zeros_like(shift)), -1)

    def logits(self, hidden):
        return hidden


def test_analytic_with_exact_scores_converges_to_the_joint(make_model) -> None:
    joint = torch.tensor([[4.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 3.0]], dtype=torch.float64)
    joint /= joint.sum()
    network = TwoTokens(make_model("sedd", length=3, vocab=4, time_conditioning=True), joint)
    law = {(1, a, b): joint[a, b].item() for a in range(MASK) for b in range(MASK)}
    options = {"length": 3, "temperature": 1.0}
    assert p_value(draw(network, 2_000, "analytic", steps=1, **options), law) < 1e-6
    assert p_value(draw(network, 2_000, "analytic", steps=64, **options), law) > 1e-3


def chosen(logits: torch.Tensor, n: int = 1000, **choice) -> torch.Tensor:
    """Share [V] of each token over evenly spread uniforms."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    ids, _ = choose_tokens(logits.expand(n, -1), u, mask_id=None, choice=Choice(**choice))
    return torch.bincount(ids, minlength=logits.shape[-1]) / n


def test_choosing_follows_the_distribution_and_never_takes_the_mask() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 50.0]])
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    ids, top = choose_tokens(logits.expand(len(u), -1), u, mask_id=3)
    exact = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    torch.testing.assert_close(torch.bincount(ids, minlength=4)[:3] / len(u), exact, atol=2e-5, rtol=0)
    assert not (ids == 3).any()
    torch.testing.assert_close(top, exact.amax().double().expand(len(u)), atol=1e-7, rtol=0)
    sharp = chosen(torch.tensor([[0.0, 1.0, 2.0]]), 100_000, temperature=0.5)
    torch.testing.assert_close(sharp, torch.tensor([0.0, 2.0, 4.0]).softmax(0), atol=2e-5, rtol=0)


def test_a_large_vocabulary_is_searched_in_cells() -> None:
    """The running sum in cells finds what a plain one finds, at cell borders and between them too."""
    weights = torch.rand(3, 5 * CELL + 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights[0, :CELL] = 0
    weights[1, -300:] = 0
    running = weights.cumsum(-1)
    shares = torch.linspace(0, 1, 400, dtype=torch.float64).clamp_max(1 - 1e-12)
    for row in range(3):
        expected = torch.searchsorted(running[row], shares * running[row, -1], right=True)
        found = inverse(weights[row].expand(400, -1), shares)
        assert torch.equal(found, expected)
    assert torch.equal(inverse(weights, torch.zeros(3, dtype=torch.float64)), torch.tensor([CELL, 0, 0]))


def test_the_nucleus_keeps_the_token_that_crosses_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert chosen(logits, nucleus=0.6).tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=2e-3)
    assert chosen(logits, nucleus=0.81).tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], abs=2e-3)
    assert chosen(logits, nucleus=1e-9).tolist() == pytest.approx([1, 0, 0, 0])
    assert chosen(logits, nucleus=1.0).tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=2e-3)


def test_top_k_comes_before_the_nucleus() -> None:
    logits = torch.tensor([[0.05, 0.15, 0.3, 0.5]]).log()
    assert chosen(logits, top_k=2).tolist() == pytest.approx([0, 0, 0.375, 0.625], abs=2e-3)
    assert chosen(logits, top_k=1).tolist() == [0, 0, 0, 1]
    assert chosen(logits, top_k=9).tolist() == pytest.approx([0.05, 0.15, 0.3, 0.5], abs=2e-3)
    # within the first two 0.5 is 0.625 of the mass, so a nucleus of 0.6 keeps it alone
    assert chosen(logits, top_k=2, nucleus=0.6).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize(("nucleus", "top_k"), [(0.3, None), (0.9, None), (0.999, None), (0.9, 500), (1.0, 100)])
def test_what_is_kept_is_what_a_full_sort_keeps(spread: float, nucleus: float, top_k: int | None) -> None:
    weights = (torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * spread).exp()
    weights[100:200] = weights[300]  # ties
    order = weights.sort(descending=True, stable=True).indices[:top_k]
    mass = weights[order].cumsum(0)
    kept = order[: int((mass < nucleus * mass[-1]).sum()) + 1]
    assert torch.equal(kept_tokens(weights, Choice(nucleus, top_k)), kept.sort().values)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_extreme_uniforms_give_possible_tokens(u: float) -> None:
    for size in (5, 2 * CELL):
        logits = torch.full((1, size), -torch.inf)
        logits[0, 1:4] = torch.tensor([0.1, 0.2, 0.3])
        token = choose_tokens(logits, torch.tensor([u], dtype=torch.float64), mask_id=4)[0].item()
        assert token == (1 if u == 0.0 else 3)
