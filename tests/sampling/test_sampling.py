"""Samplers: caching, batching and seeds without a trace; requests that cannot be served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bd3cli
from bd3cli.errors import InputError
from bd3cli.sampling import Choice, Request, Rows, StopRule, generate, make_request, sampler_class, stream
from bd3cli.sampling.base import Finished, Watch, ignore
from bd3cli.sampling.choose import choose_tokens
from bd3cli.sampling.stopping import entropy


def sample(model, request: Request, seeds, watch: Watch = ignore) -> list[Finished]:
    """Rows of one batch, in the order of their seeds."""
    with torch.inference_mode():
        batch, done = sampler_class(request.sampler)(model, request, list(seeds)), []
        while batch.rows:
            batch.step(watch)
            done += batch.finish()
    return sorted(done, key=lambda row: row.seed)


def same(a: list[Finished], b: list[Finished]) -> bool:
    return [(x.seed, x.tokens.tolist(), x.nfe, x.stop) for x in a] == [
        (x.seed, x.tokens.tolist(), x.nfe, x.stop) for x in b
    ]


SAMPLER = {"ar": "ar", "bd3lm": "first-hitting"}
BLOCKWISE = [("bd3lm", 1), ("bd3lm", 4), ("bd3lm", 8)]
EVERY = [
    ("ar", 1, "ar"),
    ("mdlm", 16, "semi-ar"),
    ("sedd", 16, "analytic"),
    *(("timed mdlm", 16, s) for s in ("first-hitting", "ancestral", "confidence", "semi-ar")),
    *((f, b, s) for f, b in [("mdlm", 16), *BLOCKWISE] for s in ("first-hitting", "ancestral", "confidence")),
]


@pytest.mark.parametrize("prompt", [(1,), (1, 2, 3, 4, 5, 6)])
@pytest.mark.parametrize(("family", "block_size", "sampler"), EVERY)
def test_cache_and_batch_leave_no_trace(make_model, family, block_size, sampler, prompt) -> None:
    model = make_model(family.split()[-1], block_size=block_size, time_conditioning=family in ("sedd", "timed mdlm"))
    choice = Choice(nucleus=0.9, temperature=2.0)
    request = Request(16, prompt, sampler, choice, steps=3, threshold=0.4)
    batch = sample(model, request, range(8))
    assert all(len(row.tokens) == 16 and (row.tokens != model.config.mask_id).all() for row in batch)
    assert all(row.tokens[: len(prompt)].tolist() == list(prompt) for row in batch)
    assert len({tuple(row.tokens.tolist()) for row in batch}) == 8
    assert same(batch, sample(model, replace(request, cached=False), range(8)))
    assert same(batch, [row for seed in range(8) for row in sample(model, request, [seed])])
    new, blocks = 16 - len(prompt), len({i // block_size for i in range(len(prompt), 16)})
    for row in batch:
        assert {
            "first-hitting": row.nfe == new,
            "ar": row.nfe == new,
            "semi-ar": row.nfe == new,
            "ancestral": row.nfe <= min(new, 3 * blocks),
            "analytic": row.nfe <= 3,
            "confidence": blocks <= row.nfe <= new,
        }[sampler], (sampler, row.nfe)


@pytest.mark.parametrize("prompt", [1, 40])
@pytest.mark.parametrize(
    ("family", "block_size", "sampler"), [("ar", 1, "ar"), *((*f, s) for f in BLOCKWISE for s in ("confidence",))]
)
def test_beyond_the_context_the_window_slides_alike_with_and_without_cache(
    make_model, family, block_size, sampler, prompt
) -> None:
    """Four times the context; a prompt longer than the context is taken in first."""
    model = make_model(family, block_size=block_size)
    ids = tuple(range(10)) * (prompt // 10) if prompt > 1 else (1,)
    request = Request(64, ids, sampler, Choice(temperature=3.0), threshold=0.3)
    rows = sample(model, request, range(3))
    assert [len(row.tokens) for row in rows] == [64] * 3
    assert same(rows, sample(model, replace(request, cached=False), range(3)))
    assert same(rows, [row for seed in range(3) for row in sample(model, request, [seed])])


@pytest.mark.parametrize("family", ["ar", "bd3lm"])
def test_the_window_is_the_context(make_model, family: str) -> None:
    """What is L tokens back changes nothing directly: with one layer nothing else carries it on."""
    model = make_model(family, blocks=1)
    size = model.config.block_size
    prompt = torch.randint(0, 10, (48,), generator=torch.Generator().manual_seed(0))

    def first(ids: torch.Tensor) -> torch.Tensor:
        cache = model.new_cache(1, 64)
        span = cache.span(torch.tensor([48 + size]))
        return model.extend(torch.cat((ids, torch.full((size,), 1))), span, cache, torch.tensor([48]))

    seen = 48 + size - 16  # the first token that the block after the prompt sees
    for position, matters in ((seen - 1, False), (seen, True), (47, True)):
        other = prompt.clone()
        other[position] = (other[position] + 1) % 10
        assert (not torch.allclose(first(prompt), first(other), atol=1e-6)) == matters, position


def test_semi_ar_goes_beyond_the_context(make_model) -> None:
    model = make_model("mdlm")
    rows = sample(model, Request(50, (1, 2), "semi-ar", stride=4), range(3))
    assert [(len(r.tokens), r.nfe, r.tokens[:2].tolist()) for r in rows] == [(50, 50, [1, 2])] * 3
    assert all((r.tokens != model.config.mask_id).all() for r in rows)
    whole = sample(model, Request(16, (1, 2), "semi-ar"), range(3))
    longer = sample(model, Request(20, (1, 2), "semi-ar"), range(3))
    assert [r.tokens.tolist() for r in whole] == [r.tokens[:16].tolist() for r in longer]
    long_prompt = sample(model, Request(40, tuple(range(10)) * 3, "semi-ar"), range(2))
    assert all(r.tokens[:30].tolist() == list(range(10)) * 3 for r in long_prompt)


@pytest.mark.parametrize("family", ["ar", "bd3lm"])
def test_a_trained_run_gives_the_same_samples_batched_or_alone(family: str, trained: Path, trained_ar: Path) -> None:
    run = bd3cli.load(str(trained if family == "bd3lm" else trained_ar))
    request = make_request(run.model, run.tokenizer, prompt="The ")
    eight = generate(run.model, run.tokenizer, request, num=8, seed=5, batch_size=8).samples
    assert eight == generate(run.model, run.tokenizer, request, num=8, seed=5, batch_size=3).samples
    alone = [generate(run.model, run.tokenizer, request, num=1, seed=5 + i).samples[0] for i in range(8)]
    assert eight == alone
    assert all(s.text.startswith("The ") and s.length == 32 for s in eight)


@pytest.mark.parametrize("sampler", ["first-hitting", "confidence"])
def test_rows_leave_the_batch_when_they_end(make_model, sampler: str) -> None:
    """With token 3 as EOS rows end at different blocks, and each is what it would have been alone and in full."""
    model = make_model("bd3lm")
    request = Request(64, (1,), sampler, Choice(temperature=2.0), threshold=0.3, stop=StopRule(eos_id=3))
    sizes: list[int] = []
    rows = sample(model, request, range(12), lambda rows, row, position: sizes.append(len(rows)))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 3
    whole = sample(model, Request(64, (1,), sampler, Choice(temperature=2.0), threshold=0.3), range(12))
    for row, full in zip(rows, whole, strict=True):
        end = (full.tokens[1:] == 3).nonzero()
        length = int(end[0]) + 2 if len(end) else 64
        assert row.tokens.tolist() == full.tokens[:length].tolist()
        assert row.stop == ("eos" if len(end) else "length")
    assert same(rows, [row for seed in range(12) for row in sample(model, request, [seed])])


def test_watching_shows_every_step(make_model) -> None:
    model = make_model("bd3lm")
    masked: list[int] = []
    revealed: list[int] = []

    def watch(rows: Rows, row: torch.Tensor, position: torch.Tensor) -> None:
        assert row.tolist() == [0]
        end = int(rows.known[0]) + 4
        masked.append(int((rows.tokens[0, :end] == model.config.mask_id).sum()))
        revealed.extend(position.tolist())

    sample(model, Request(8, (1,)), [0], watch)
    assert masked == [2, 1, 0, 3, 2, 1, 0]
    assert sorted(revealed) == list(range(1, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, "at least 2 tokens"),
        ({"prompt": "x" * 32}, "leaves none of 32 to generate"),
        ({"nucleus": 0.0}, "nucleus must lie in"),
        ({"top_k": 0}, "top-k must be at least 1"),
        ({"temperature": -1.0}, "temperature must be 0 (greedy) or a positive number, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be 0 (greedy) or a positive number"),
        ({"sampler": "ancestrall"}, "Did you mean 'ancestral'"),
        ({"sampler": "ar"}, "serves ar networks; this one is bd3lm. Choose first-hitting or ancestral or confidence"),
        ({"steps": 3}, "--steps has no effect on sampler 'first-hitting'"),
        ({"sampler": "ancestral", "steps": 0}, "steps must lie between 1 and"),
        ({"sampler": "confidence", "threshold": 1.5}, "threshold must lie between 0 and 1"),
        ({"template": "no hole"}, "has no hole"),
        ({"template": "a [MASK:3]", "prompt": "b"}, "takes the place of a prompt"),
        ({"template": "a [MASK:9]", "length": 5}, "more than the length of 5"),
    ],
)
def test_requests_that_cannot_be_served(trained: Path, options, message) -> None:
    run = bd3cli.load(str(trained))
    with pytest.raises(InputError) as error:
        make_request(run.model, run.tokenizer, **options)
    assert message in str(error.value)


def test_only_blocks_go_beyond_the_context(make_model, trained: Path, trained_ar: Path) -> None:
    tokenizer = bd3cli.load(str(trained)).tokenizer
    for family, options in (("mdlm", {}), ("sedd", {"time_conditioning": True}), ("bd3lm", {"block_size": 16})):
        model = make_model(family, **options)
        with pytest.raises(InputError, match=r"between 2 and the model's context of 16 tokens, not 17"):
            make_request(model, tokenizer, length=17)
    assert make_request(make_model("mdlm"), tokenizer, length=17, sampler="semi-ar").length == 17
    assert make_request(make_model("bd3lm"), tokenizer, length=17).length == 17
    with pytest.raises(InputError, match="cannot fill in a template"):
        make_request(bd3cli.load(str(trained_ar)).model, tokenizer, template="a [MASK:1]")


@pytest.mark.parametrize(("family", "block_size", "sampler"), EVERY)
def test_temperature_0_takes_the_most_probable_token(make_model, family, block_size, sampler) -> None:
    """Every token is the argmax given what was known when it was revealed, by passes over nothing else."""
    timed = family in ("sedd", "timed mdlm")
    model = make_model(family.split()[-1], block_size=block_size, time_conditioning=timed)
    request = Request(16, (1, 2), sampler, Choice(temperature=0.0), steps=5, threshold=0.4)
    steps: list[tuple[torch.Tensor, list[int]]] = []

    def watch(rows: Rows, row: torch.Tensor, position: torch.Tensor) -> None:
        steps.append((rows.tokens[0].clone(), position.tolist()))

    found = [sample(model, request, [seed], watch)[0] for seed in range(3)]
    if sampler == "ar":
        assert len({tuple(row.tokens.tolist()) for row in found}) == 1, "nothing is left to chance"
    if timed:  # what the network saw of time is the sampler's own affair; repeatable it is
        assert same(found, [sample(model, request, [seed])[0] for seed in range(3)])
        return
    for after, positions in steps:
        before = after.clone()
        before[positions] = model.config.mask_id
        with torch.inference_mode():
            if sampler == "ar":
                logits = model.logits(model(after[: positions[0]].unsqueeze(0), None)[0, -1:])
            else:
                clean = after.unsqueeze(0) if family == "bd3lm" else None
                logits = model.logits(model(before.unsqueeze(0), clean)[0, positions])
            best = logits.index_fill(1, torch.tensor(model.config.mask_id), -torch.inf).argmax(-1)
        assert after[positions].tolist() == best.tolist()


def test_greedy_choice_is_first_of_equals_and_leaves_confidence_alone() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 9.0], [1.0, 0.0, 0.5, 9.0]])
    for choice in (Choice(temperature=0.0), Choice(0.3, 2, -0.0)):
        ids, top = choose_tokens(logits, torch.tensor([0.99, 0.99]).double(), mask_id=3, choice=choice)
        assert ids.tolist() == [1, 0]
        expected = logits[:, :3].double().softmax(-1).amax(-1)
        torch.testing.assert_close(top, expected)
    almost = choose_tokens(logits[1:], torch.tensor([0.99]).double(), mask_id=3, choice=Choice(temperature=1e-300))
    assert almost[0].tolist() == [0]


def test_confidence_measures_the_networks_own_probability_when_greedy(make_model) -> None:
    """At temperature 0 every token is certain: a block would be revealed at once whatever the threshold."""
    model = make_model("bd3lm", block_size=8)
    counts = []
    for threshold in (0.0, 1.0):
        request = Request(16, (1,), "confidence", Choice(temperature=0.0), threshold=threshold)
        counts.append(sample(model, request, [0])[0].nfe)
    assert counts == [2, 15]


@pytest.mark.parametrize(("family", "block_size"), [("ar", 1), *BLOCKWISE])
def test_evaluations_that_take_in_a_long_prompt_count(make_model, family: str, block_size: int) -> None:
    """Every pass through the network, by counting them; and each is told to who watches."""
    model = make_model(family, block_size=block_size)
    passes, told = [0], [0]
    extend = model.extend

    def counted(*arguments):
        passes[0] += 1
        return extend(*arguments)

    def watch(rows: Rows, row: torch.Tensor, position: torch.Tensor) -> None:
        told[0] += 1
        assert int(rows.nfe[0]) == told[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "extend", counted)
        prompt = (1, *range(10)) * 20
        row = sample(model, Request(240, prompt, SAMPLER[family]), [0], watch)[0]
    pieces = -(-len(prompt) // 64)  # room for 64 tokens beside the window
    assert row.nfe == passes[0] == told[0]
    assert 20 + pieces - 2 <= row.nfe <= 20 + pieces


def test_the_network_is_in_evaluation_mode_meanwhile_and_as_it_was_afterwards(make_model, trained: Path) -> None:
    """With dropout on, a sample would not even be a function of its seed."""
    tokenizer = bd3cli.load(str(trained)).tokenizer
    model = make_model("bd3lm", vocab=259, dropout=0.5)
    request = make_request(model, tokenizer, prompt="The ")
    expected = generate(model, tokenizer, request, num=2).samples
    model.train()
    model.blocks[0].eval()  # someone keeps a part of it as it is
    modes: list[bool] = []

    def watch(rows: Rows, row: torch.Tensor, position: torch.Tensor) -> None:
        modes.append(any(module.training for module in model.modules()))

    assert generate(model, tokenizer, request, num=2, watch=watch).samples == expected
    assert modes
    assert not any(modes)
    for _ in stream(model, tokenizer, request, num=2, seed=0):
        assert model.training, "between two samples the caller has it as it was"
    assert model.training
    assert model.blocks[1].training
    assert not any(module.training for module in model.blocks[0].modules())


@pytest.mark.parametrize(
    "hole",
    ["99999999999", "9" * 5000, "10000001", "6000000] [MASK:6000000", "0" * 5000 + "99999999"],
)
def test_a_hole_of_absurd_length_is_a_mistake(trained: Path, hole: str) -> None:
    run = bd3cli.load(str(trained))
    with pytest.raises(InputError, match="longer than a sample can be: 10,000,000 tokens") as error:
        make_request(run.model, run.tokenizer, template=f"a [MASK:{hole}]")
    assert len(str(error.value)) < 200


def test_leading_zeros_of_a_hole_are_nothing(trained: Path) -> None:
    run = bd3cli.load(str(trained))
    assert make_request(run.model, run.tokenizer, template="a[MASK:" + "0" * 5000 + "3]").length == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 10**12}, "at most 10,000,000 tokens, not 1000000000000"),
        ({"length": 10**100}, "at most 10,000,000 tokens, not 1000000000000000"),
        ({"sampler": "ancestral", "steps": 10**30}, "steps must lie between 1 and 1,000,000,000"),
        ({"nucleus": float("nan")}, "nucleus must lie in"),
        ({"temperature": float("inf")}, "temperature must be 0"),
    ],
)
def test_absurdly_large_numbers_are_mistakes(trained: Path, options, message) -> None:
    run = bd3cli.load(str(trained))
    with pytest.raises(InputError) as error:
        make_request(run.model, run.tokenizer, **options)
    assert message in str(error.value)


def test_token_entropy() -> None:
    assert entropy(torch.tensor([3, 3, 3])) == 0
    assert entropy(torch.tensor([1, 2, 3, 4])) == pytest.approx(torch.log(torch.tensor(4.0)).item())
