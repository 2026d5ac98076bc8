"""SEDD: its loss against the published formula, autograd, quadrature and the likelihood it bounds."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special
from scipy.stats import beta
from torch import Tensor

import bd3cli
from bd3cli.diffusion import cross_entropy
from bd3cli.diffusion.batch import Batch, weighted_nll
from bd3cli.diffusion.conditioning import LARGEST_SIGMA, noise_level, posterior_mask_prob
from bd3cli.diffusion.cross_entropy import token_losses, weighted_loss
from bd3cli.diffusion.objective import Objective
from bd3cli.diffusion.score_entropy import score_entropy
from bd3cli.diffusion.sedd import log_scores
from bd3cli.errors import InputError
from bd3cli.evaluation import likelihood
from bd3cli.maskings import MaskNoise, get_masking
from bd3cli.model import TransformerConfig
from bd3cli.recipes.resolve import resolve
from bd3cli.recipes.settings import ObjectiveConfig
from bd3cli.schedules import get_schedule
from bd3cli.training.loop import train

V, MASK = 4, 3  # three tokens and the mask
L = 4  # the first token is given


def published(logits: Tensor, x_0: Tensor, sigma: Tensor, dsigma: Tensor) -> Tensor:
    """The score entropy of masked positions as the paper's code defines it: logits [M, V], x_0, sigma, dsigma [M]."""
    log_q = -torch.log(torch.exp(sigma) - 1)
    s = logits + log_q[:, None] - math.log(logits.shape[1] - 1)
    s[:, -1] = 0.0  # the score of the token that is there
    total = s[:, :-1].exp().sum(1)
    return dsigma * (total - log_q.exp() * s.gather(1, x_0[:, None])[:, 0] + log_q.exp() * (log_q - 1))


class Network:
    """Stands for a `Transformer` whose logits [B, S, V] are any function of the noisy tokens and sigma."""

    def __init__(self, logits, length: int = L, family: str = "sedd") -> None:
        self.function = logits
        self.config = TransformerConfig(
            family, V, MASK, length, length, hidden_size=V, heads=1, time_conditioning=family == "sedd"
        )
        self.projection = torch.eye(V), torch.zeros(V)

    def __call__(self, x_t: Tensor, x_0: Tensor | None, sigma: Tensor | None) -> Tensor:
        return self.function(x_t, sigma).float()


def nelbo(network: Network, batch: Batch, factor: Tensor | None = None) -> Tensor:
    """The training loss of a batch, each of its rows multiplied by `factor` [B]."""
    if factor is not None:
        batch = replace(batch, weight=batch.weight * factor[batch.row])
    return weighted_nll(network, batch.to(torch.device("cpu")))[0]  # type: ignore[arg-type]


def joint() -> Tensor:
    """A distribution over all sequences of three tokens at positions 1..3."""
    g = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 3, generator=g, dtype=torch.float64).pow(2).flatten().softmax(0).view(3, 3, 3)


def conditionals(x_t: Tensor) -> Tensor:
    """p(x_i = y | unmasked tokens of x_t) under `joint`, [B, L, V]; zero for the mask, anything at position 0."""
    out = torch.zeros(*x_t.shape, V, dtype=torch.float64)
    for b, row in enumerate(x_t[:, 1:].tolist()):
        p = joint()
        for i, token in enumerate(row):
            if token != MASK:
                keep = torch.zeros(3, dtype=torch.float64)
                keep[token] = 1
                p = p * keep.view([3 if j == i else 1 for j in range(3)])
        for i in range(3):
            marginal = p.sum([j for j in range(3) if j != i])
            out[b, i + 1, :3] = marginal / marginal.sum()
    return out


def perfect(x_t: Tensor, sigma: Tensor | None) -> Tensor:
    """Logits whose scores are q p(y | context): the published shift of the score is undone."""
    return conditionals(x_t).clamp_min(1e-300).log() + math.log(V - 1)


def wrong(x_t: Tensor, sigma: Tensor | None) -> Tensor:
    """Scores that are neither right nor normalised, and depend on the noise level."""
    assert sigma is not None
    tilt = torch.arange(V, dtype=torch.float64) - 1
    return perfect(x_t, sigma) * 0.5 + sigma[:, None, None] * 0.3 * tilt + 0.2 * torch.sin(3 * sigma[:, None, None])


X_0 = torch.tensor([[0, 2, 0, 1]])
MASKS = [m for k in range(1, 4) for m in itertools.combinations(range(1, 4), k)]


def masked(positions: tuple[int, ...]) -> Tensor:
    x_t = X_0.clone()
    x_t[0, list(positions)] = MASK
    return x_t


def gauss(*edges: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature with 16 points between neighbouring edges, float64."""
    x, w = map(torch.from_numpy, np.polynomial.legendre.leggauss(16))
    low, high = (
        torch.tensor(edges[:-1], dtype=torch.float64)[:, None],
        torch.tensor(edges[1:], dtype=torch.float64)[:, None],
    )
    return (low + (high - low) * (x + 1) / 2).flatten(), (w * (high - low) / 2).flatten()


RATES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)  # sigma moves fast near 1, and is capped from 0.999 on


def score_entropy_nelbo(logits, low: float = 0.0) -> float:
    """The NELBO of `X_0` from the definition: sum over masks, quadrature over the linear schedule's t, in float64."""
    t, w = gauss(low, *RATES, 1.0)
    sigma = (-torch.log1p(-t)).clamp_max(LARGEST_SIGMA)
    dsigma = torch.expm1(sigma) / t  # with the cap, still dsigma q = 1/t
    total = 0.0
    for m in MASKS:
        out = logits(masked(m).expand(len(t), L), sigma)
        for i in m:
            each = published(out[:, i], X_0[:, i].expand(len(t)), sigma, dsigma)
            total += (w * t ** len(m) * (1 - t) ** (3 - len(m)) * each).sum().item()
    return total


# the loss


@pytest.mark.parametrize("slice_bytes", [1, 20 * 7 * 4, 10**9])
def test_loss_and_gradients_equal_autograd_of_the_published_formula(monkeypatch, slice_bytes: int) -> None:
    monkeypatch.setattr(cross_entropy, "SLICE_BYTES", slice_bytes)
    g = torch.Generator().manual_seed(0)
    m, d, v = 45, 8, 7
    tensors = [torch.randn(*shape, generator=g) for shape in ((m, d), (v, d), (v,))]
    target = torch.randint(0, v - 1, (m,), generator=g)
    p, rate = torch.rand(m, generator=g, dtype=torch.float64), torch.rand(m, generator=g, dtype=torch.float64) * 3
    ours = [x.clone().requires_grad_() for x in tensors]
    theirs = [x.double().requires_grad_() for x in tensors]
    loss, parts = weighted_loss(*ours, target, (rate / p).float(), v - 1, score_entropy)
    logits = torch.nn.functional.linear(*theirs)
    each = published(logits, target, -torch.log1p(-p), rate / (1 - p))
    (loss * 0.3).backward()
    (each.sum() * 0.3).backward()
    torch.testing.assert_close(loss.double(), each.sum(), rtol=1e-5, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-4)
    each_ours = token_losses(*tensors, target, v - 1, score_entropy)
    torch.testing.assert_close(each_ours.double(), each.detach() * p / rate, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts, each_ours)


def test_the_scores_of_the_loss_are_the_scores_of_the_sampler() -> None:
    """Its two terms from `log_scores`: the loss and `Run.logits` shift the network's output by the same amount."""
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 5, V, generator=g)
    target = torch.randint(0, 3, (5,), generator=g)
    for sigma in (0.01, 1.0, 6.0):
        s = log_scores(logits, torch.full((1, 5), MASK), torch.tensor([sigma]))[0].double()
        q = 1 / math.expm1(sigma)
        over_w = (s[:, :-1].exp().sum(1) - q * s.gather(1, target[:, None])[:, 0] + q * (math.log(q) - 1)) / q
        mine = token_losses(logits[0], torch.eye(V), torch.zeros(V), target, MASK, score_entropy)
        torch.testing.assert_close(mine.double(), over_w, rtol=1e-4, atol=1e-5)


def test_it_is_the_cross_entropy_plus_a_penalty_that_vanishes_at_normalised_scores() -> None:
    logits = torch.randn(50, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64).float()
    target = torch.zeros(50, dtype=torch.long)
    network = torch.eye(V), torch.zeros(V)
    entropy = token_losses(logits, *network, target, MASK, score_entropy)
    nll = token_losses(logits, *network, target, MASK)
    z = (logits[:, :MASK] - math.log(V - 1)).exp().sum(1)
    torch.testing.assert_close(entropy - nll, z - 1 - z.log(), rtol=1e-4, atol=1e-5)
    normalised = logits - z.log()[:, None]
    torch.testing.assert_close(token_losses(normalised, *network, target, MASK, score_entropy), nll)


def test_nothing_diverges_when_everything_is_masked() -> None:
    """At p = 1 dsigma is infinite and q zero; their product is p'. The noise level stops at the published cap."""
    objective = Objective.build(ObjectiveConfig(family="sedd", masking="bernoulli"), MASK, L)
    assert objective.schedule is not None
    assert objective.schedule.mask_prob(torch.ones(1)).item() == 1
    batch = draw_batch(objective, (1, 2, 3), torch.zeros(1).double(), torch.zeros(1).double())
    assert batch.sigma is not None
    assert batch.sigma.item() == pytest.approx(-math.log(1e-3))
    assert torch.equal(batch.weight, torch.ones(3, dtype=torch.float64))
    assert torch.isfinite(nelbo(Network(wrong), batch))


# the NELBO


def draw_batch(objective: Objective, mask: tuple[int, ...], time: Tensor, level: Tensor) -> Batch:
    """`X_0` once for each of `time` and `level` [T], masked as `mask` says by bernoulli and count alike."""
    rows = len(time)
    position = torch.tensor([[0.0 if i in mask else 1.0 for i in range(L)]], dtype=torch.float64).expand(rows, L)
    noise = MaskNoise(time[:, None], torch.full((rows, 1), 0.5).double(), position, level)
    batch = objective.batch(X_0.expand(rows, L), torch.ones(rows, L, dtype=torch.bool), noise, 0.0)
    assert (batch.x_t == masked(mask)).all()
    return batch


def integrated(objective: Objective, network: Network, t: Tensor, w: Tensor) -> float:
    """Mean training loss: quadrature over the time, sum over all masks with their probabilities."""
    assert objective.schedule is not None
    low, p, total = objective.schedule.t_min, objective.schedule.mask_prob(t), 0.0
    for m in MASKS:
        batch = draw_batch(objective, m, 1 - (t - low) / (1 - low), torch.full_like(t, 0.5))
        factor = w / (1 - low) * p ** len(m) * (1 - p) ** (3 - len(m))
        total += nelbo(network, batch, factor).item()
    return total


def test_perfect_scores_integrate_to_the_negative_log_likelihood() -> None:
    """Of every sequence, not only on average: any order of revealing multiplies to the same probability."""
    truth = -joint()[tuple(X_0[0, 1:])].log().item()
    assert score_entropy_nelbo(perfect) == pytest.approx(truth, rel=1e-9)
    objective = Objective.build(ObjectiveConfig(family="sedd", masking="bernoulli", schedule="square"), MASK, L)
    assert integrated(objective, Network(perfect), *gauss(0.0, 1.0)) == pytest.approx(truth, rel=1e-6)


def test_perfect_scores_and_perfect_probabilities_have_the_same_loss_at_every_time() -> None:
    """Score entropy of q p(y|context) is w times -log p(x_0|context): what MDLM minimises."""
    sedd, mdlm = (
        Objective.build(ObjectiveConfig(family=family, masking="bernoulli"), MASK, L) for family in ("sedd", "mdlm")
    )
    for t, m in itertools.product((0.01, 0.4, 1.0), MASKS):
        time = torch.tensor([(1 - t) / 0.999], dtype=torch.float64)
        ours = nelbo(Network(perfect), draw_batch(sedd, m, time, time))
        theirs = nelbo(Network(perfect, family="mdlm"), draw_batch(mdlm, m, time, time))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", ["square", "cosine:eps=0", "loglinear", "gaussian:mu=0.5,sigma=0.3"])
def test_the_training_loss_integrates_to_the_nelbo_under_every_schedule(schedule: str) -> None:
    """With scores that depend on the noise level: p'/p dt = dp/p, and sigma is a function of p."""
    objective = Objective.build(ObjectiveConfig(family="sedd", masking="bernoulli", schedule=schedule), MASK, L)
    assert objective.schedule is not None
    low = objective.schedule.t_min
    times = gauss(low, *objective.schedule.time_at(torch.tensor(RATES)).tolist(), 1.0)
    found = integrated(objective, Network(wrong), *times) * (1 - low)
    assert found == pytest.approx(score_entropy_nelbo(wrong, low), rel=2e-5)


def test_a_rate_drawn_after_a_count_leaves_the_nelbo_unbiased() -> None:
    """k uniform, a k-subset, then p ~ Beta(k, n-k+1): summed over k and subsets, quadrature over p through its cdf."""
    objective = Objective.build(ObjectiveConfig(family="sedd", masking="count"), MASK, L)
    p, w = gauss(0.0, *RATES, 1.0)
    total = 0.0
    for m in MASKS:
        k, subsets = len(m), math.comb(3, len(m))
        level = torch.from_numpy(special.betainc(k, 4 - k, p.numpy()))
        batch = draw_batch(objective, m, torch.full_like(p, (k - 0.5) / 3), level)
        density = torch.from_numpy(beta.pdf(p.numpy(), k, 4 - k))
        total += nelbo(Network(wrong), batch, w * density / (3 * subsets)).item()
    assert total == pytest.approx(score_entropy_nelbo(wrong), rel=2e-5)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 5), (3, 5), (5, 5), (900, 1023)])
def test_the_drawn_rate_has_the_distribution_of_the_nelbo(k: int, n: int) -> None:
    """Quadrature of w(p) P(mask | p) = (1/p) p^k (1-p)^(n-k) up to the drawn rate gives back the uniform."""
    u = torch.tensor([0.02, 0.3, 0.5, 0.97], dtype=torch.float64)
    drawn = posterior_mask_prob(torch.full((4,), k), torch.full((4,), n), u)

    def integral(high: float) -> float:
        p, w = gauss(*torch.linspace(0, high, 200).tolist()[:-1], high)
        return float((w * torch.exp((k - 1) * p.log() + (n - k) * torch.log1p(-p))).sum())

    assert [integral(p) / integral(1.0) for p in drawn.tolist()] == pytest.approx(u.tolist(), rel=1e-9)


def test_the_noise_level_is_capped_and_exact_near_zero() -> None:
    p = torch.tensor([1e-12, 0.5, 0.999, 0.9999, 1.0], dtype=torch.float64)
    expected = [1e-12, math.log(2), -math.log(1e-3), -math.log(1e-3), -math.log(1e-3)]
    assert noise_level(p).tolist() == pytest.approx(expected, rel=1e-11)


# evaluation


class Contexts:
    """A split in memory."""

    fingerprint = "contexts"

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, indices) -> np.ndarray:
        return self.ids[np.asarray(indices)]

    def valid(self, indices) -> np.ndarray:
        return np.ones_like(self.ids[np.asarray(indices)], dtype=bool)


@pytest.fixture
def conditioned(make_model):
    """A small network whose output depends visibly on the noise level."""

    def make(family: str, length: int = L):
        model = make_model(family, length=length, vocab=V, time_conditioning=True)
        with torch.no_grad():
            model.output_layer.linear.bias.sub_(1.0)
        return model

    return make


@pytest.mark.parametrize("family", ["sedd", "mdlm"])
@pytest.mark.parametrize(("estimator", "precision"), [("count", 0.01), ("uniform", 0.05)])
def test_estimators_agree_with_the_definition(conditioned, family: str, estimator: str, precision: float) -> None:
    model = conditioned(family)

    def logits(x_t: Tensor, sigma: Tensor) -> Tensor:
        out = model.logits(model(x_t, None, sigma.float())).double()
        if family == "mdlm":  # normalised scores: the score entropy is then the cross-entropy
            out[..., MASK] = -torch.inf
            out = out.log_softmax(-1) + math.log(V - 1)
        return out

    with torch.inference_mode():
        truth = score_entropy_nelbo(logits)
        at = [score_entropy_nelbo(lambda x, _, s=s: logits(x, torch.tensor([s]))) for s in (0.01, 3.0)]
    assert abs(at[0] - at[1]) > 0.05 * truth  # the noise level matters to this network
    split = Contexts(np.repeat(X_0.numpy(), 64, 0))
    totals = [
        likelihood(model, split, estimator=estimator, draws=8, seed=s, batch_size=64).nelbo.mean()  # type: ignore[arg-type]
        for s in range(16)
    ]
    error = np.std(totals, ddof=1) / math.sqrt(len(totals))
    assert abs(np.mean(totals) - truth) < 4 * error
    assert error < precision * truth


def test_the_exact_estimator_is_refused_under_time_conditioning(conditioned) -> None:
    with pytest.raises(InputError, match=r"also sees the noise level.*Use --estimator count"):
        likelihood(conditioned("sedd"), Contexts(X_0.repeat(2, 1).numpy()), estimator="exact")  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["count", "uniform"])
def test_batching_and_the_choice_of_sequences_change_nothing(conditioned, estimator: str) -> None:
    split = Contexts(np.random.default_rng(0).integers(0, 3, (6, L)))
    model = conditioned("sedd")
    whole = likelihood(model, split, estimator=estimator, draws=3, batch_size=6)  # type: ignore[arg-type]
    single = likelihood(model, split, estimator=estimator, draws=3, batch_size=1)  # type: ignore[arg-type]
    some = likelihood(model, split, estimator=estimator, draws=3, sequences=3)  # type: ignore[arg-type]
    np.testing.assert_allclose(whole.nelbo, single.nelbo, rtol=1e-5)
    np.testing.assert_allclose(some.nelbo, whole.nelbo[some.sequences], rtol=1e-5)
    assert not whole.exact


def test_equal_logits_have_the_loss_of_ignorance_whatever_the_mask_and_the_noise(make_model) -> None:
    model = make_model("sedd", length=L, vocab=V, time_conditioning=True)
    with torch.no_grad():
        model.output_layer.linear.weight.zero_()
        model.output_layer.linear.bias.zero_()
    result = likelihood(model, Contexts(X_0.repeat(3, 1).numpy()))  # type: ignore[arg-type]
    np.testing.assert_allclose(result.nelbo / result.tokens, math.log(V - 1), rtol=1e-6)


# recipes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.family=sedd", "model.time_conditioning=false"], "cannot be false for family 'sedd'"),
        (["model.time_conditioning=true"], "family 'bd3lm' with block size 4 of 128 tokens has one a block"),
        (["objective.family=ar", "model.time_conditioning=true"], "family 'ar' with .* has none"),
    ],
)
def test_time_conditioning_without_one_noise_level_a_sequence_is_refused(overrides, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve("tiny", overrides=overrides, environment={})


@pytest.mark.parametrize(
    ("overrides", "seen"),
    [
        (["objective.family=sedd"], True),
        (["objective.family=mdlm"], False),
        (["objective.family=mdlm", "model.time_conditioning=true"], True),
        (["objective.block_size=128", "model.time_conditioning=true"], True),
        (["objective.family=mdlm", "model.time_conditioning=false"], False),
    ],
)
def test_who_sees_the_noise_level(overrides, seen: bool) -> None:
    recipe = resolve("tiny", overrides=overrides, environment={}).recipe
    assert recipe.time_conditioning is seen
    assert recipe.block_size == 128


def test_a_masking_that_draws_no_time_and_one_that_does_both_give_a_noise_level() -> None:
    """The level belongs to the mask: with n = 3 maskable tokens of which k are masked, p and k / n correlate.

    `count`: k uniform in 1..n and p | k ~ Beta(k, n - k + 1), so that corr^2 = (n - 1) / (n + 1). `bernoulli`: p
    uniform and k ~ Binomial(n, p), so that corr^2 = n / (n + 2).
    """
    rows = 2000
    tokens, valid = torch.zeros(rows, L, dtype=torch.long), torch.ones(rows, L, dtype=torch.bool)
    noise = MaskNoise.draw(rows, L, L, 0)
    for name, expected in (("count", (2 / 4) ** 0.5), ("bernoulli", (3 / 5) ** 0.5)):
        objective = Objective.build(ObjectiveConfig(family="sedd", masking=name), MASK, L)
        batch: Batch = objective.batch(tokens, valid, noise, 0.0)
        assert batch.sigma is not None
        assert batch.sigma.shape == (rows,)
        p = 1 - torch.exp(-batch.sigma)
        share = (batch.x_t == MASK).sum(1) / 3
        assert abs(np.corrcoef(p, share)[0, 1] - expected) < 4.5 * (1 - expected**2) / rows**0.5
    assert get_masking("bernoulli").uses_schedule
    plain = Objective.build(ObjectiveConfig(family="mdlm"), MASK, L)
    assert plain.batch(tokens, valid, noise, 0.0).sigma is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, quick) -> dict[str, Path]:
    """A run of each family that attends everywhere, trained alike."""
    folder, found = tmp_path_factory.mktemp("attends-everywhere"), {}
    for family in ("sedd", "mdlm"):
        settings = [*quick, f"objective.family={family}", "train.steps=40", "model.dropout=0.1"]
        result = train(resolve("tiny", overrides=settings, environment={}), folder / family)
        assert result.validation is not None
        found[family] = folder / family
    return found


def test_a_trained_run_gives_scores_of_a_noise_level(runs) -> None:
    run = bd3cli.load(str(runs["sedd"]))
    assert run.config.time_conditioning
    assert run.config.mask_id is not None
    tokens = torch.from_numpy(run.split("validation").tokens([0, 1]))
    tokens[:, 5:] = run.config.mask_id
    low, high = (run.logits(tokens, sigma=torch.full((2,), s)) for s in (0.1, 3.0))
    assert low.shape == (2, 32, run.config.vocab_size)
    assert (low[:, 5:, 0] > high[:, 5:, 0]).all()  # a mask is likelier to turn into a token when little is masked
    # scores over q nearly sum to 1: training normalises them
    total = (high[:, 5:, :-1].logsumexp(-1) + math.log(math.expm1(3.0))).exp()
    assert (total - 1).abs().mean() < 0.35
    with pytest.raises(InputError, match="needs sigma"):
        run.logits(tokens)


def test_rows_cannot_be_swapped(runs, cli) -> None:
    """A row's label and its number come from one network's own configuration, in whatever order runs are given."""
    paths = [runs["sedd"], runs["mdlm"]]
    tables = [cli("eval", *order, "--sequences", 16, "--json").json["rows"] for order in (paths, paths[::-1])]
    first, second = ({row["run"]: row for row in rows} for rows in tables)
    assert first == second
    for family, path in runs.items():
        row = first[str(path)]
        recorded = json.loads((path / "run.json").read_text())["recipe"]["objective.family"]
        assert row["family"] == recorded == family
        assert row["block_size"] == 32
        assert not row["exact"]
    alone = cli("eval", runs["sedd"], "--sequences", 16, "--json").json
    assert alone["nats_per_token"] == first[str(runs["sedd"])]["nats_per_token"]
    assert alone["nats_per_token"] != first[str(runs["mdlm"])]["nats_per_token"]


@pytest.mark.parametrize(
    "options",
    [
        {"masking": "bernoulli", "schedule": "cosine", "clip": (0.3, 0.8), "resample": True},
        {"masking": "bernoulli", "weight": "sigmoid:k=0", "normalise_weight": True},
        {"masking": "count", "weight": "edm"},
    ],
)
def test_maskings_clips_and_loss_weights_are_those_of_every_family(options) -> None:
    """The same masks and the same factors as MDLM's; only the loss they multiply is another."""
    tokens, valid = torch.zeros(16, L, dtype=torch.long), torch.ones(16, L, dtype=torch.bool)
    noise = MaskNoise.draw(16, L, L, 0)
    sedd, mdlm = (
        Objective.build(ObjectiveConfig(family=family, **options), MASK, L).batch(tokens, valid, noise, 0.0)
        for family in ("sedd", "mdlm")
    )
    assert torch.equal(sedd.x_t, mdlm.x_t)
    assert torch.equal(sedd.weight, mdlm.weight)
    assert sedd.sigma is not None
    if "clip" in options:
        p = get_schedule("cosine").mask_prob(torch.tensor([0.3, 0.8]).double())
        assert noise_level(p)[0] <= sedd.sigma.min() <= sedd.sigma.max() <= noise_level(p)[1]


def test_under_autocast_the_products_are_bfloat16_and_the_loss_is_float32() -> None:
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(*s, generator=g).requires_grad_() for s in ((45, 8), (7, 8), (7,))]
    target, factor = torch.randint(0, 6, (45,), generator=g), torch.rand(45, generator=g)
    plain = weighted_loss(*tensors, target, factor, 6, score_entropy)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = weighted_loss(*tensors, target, factor, 6, score_entropy)[0]
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, rtol=2e-2, atol=0)
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in tensors)
