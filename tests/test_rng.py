"""Random streams: functions of their whole key, on every device, with more than 32 bits behind them."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from bd3cli import rng
from bd3cli.rng import generator, permutation, seed_torch, stratified, uniform


def keys_with_equal_low_words() -> tuple[int, int]:
    """Two seeds whose keys agree in the 32 bits that torch's CPU seeding keeps: a birthday search."""
    seen: dict[int, int] = {}
    for seed in count():
        low = int(rng._key(seed, "stream")[0]) & 0xFFFF_FFFF
        if low in seen:
            return seen[low], seed
        seen[low] = seed
    raise AssertionError


@pytest.fixture(scope="module")
def pair() -> tuple[int, int]:
    return keys_with_equal_low_words()


def test_seeds_that_32_bits_confuse_have_streams_of_their_own(pair: tuple[int, int]) -> None:
    """67829 and 80522 gave the same sample when torch seeded the streams; `pair` would under the keys of now."""
    for a, b in ((67829, 80522), pair):
        for name in ("sample", "stream"):
            one, two = uniform((1000,), a, name), uniform((1000,), b, name)
            assert float((one == two).double().mean()) < 0.01
            assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 5 / 1000**0.5
            assert not torch.equal(permutation(100, a, name), permutation(100, b, name))


def test_torchs_own_generator_takes_more_than_32_bits_too(pair: tuple[int, int]) -> None:
    drawn = []
    for seed in pair:
        seed_torch(seed, "stream")
        drawn.append((torch.nn.Linear(8, 8).weight, torch.nn.functional.dropout(torch.ones(1000), 0.5)))
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert 0.4 < float((drawn[0][1] == drawn[1][1]).float().mean()) < 0.6
    with_32_bits = [torch.Generator().manual_seed(int(rng._key(seed, "stream")[0])) for seed in pair]
    one, two = (torch.rand(8, generator=g) for g in with_32_bits)
    assert torch.equal(one, two), "the pair is one that tells the two apart"


def test_torchs_state_holds_the_words_put_into_it() -> None:
    """Against numpy's Mersenne twister with the same 624 words: the layout of torch's state is as assumed."""
    seed_torch(7, "state")
    words = np.random.Philox(key=rng._key(7, "state")).random_raw(312).astype("<u8").view("<u4")
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    found = [int(torch.empty((), dtype=torch.int32).random_()) for _ in range(1500)]
    assert found == [int(x) & 0x7FFF_FFFF for x in twister.random_raw(1500)]


def test_a_seeded_torch_forgets_what_was_drawn_before() -> None:
    drawn = []
    for before in (0, 1, 3):
        torch.randn(before)  # an odd number leaves half a pair behind
        seed_torch(5)
        drawn.append(torch.randn(7))
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize("other", [(4, "mask", 9), (3, "time", 9), (3, "mask", 8), (3, "mask"), ("3", "mask", 9)])
def test_every_part_of_a_key_counts(other: tuple[int | str, ...]) -> None:
    same, key = uniform((4, 5), 3, "mask", 9), (3, "mask", 9)
    assert torch.equal(same, uniform((4, 5), *key))
    assert same.dtype == torch.float64
    assert not torch.isin(same, uniform((4, 5), *other)).any()


def test_streams_are_those_of_their_version() -> None:
    """Philox 4x64 under a 128-bit BLAKE2b of the key, 53 bits a number: a change needs a new STREAM_VERSION.

    Raw words and their top 53 bits are what numpy promises never to change.
    """
    import hashlib

    assert rng.STREAM_VERSION == 2
    digest = hashlib.blake2b(b"(3, 'mask', 9)", digest_size=16).digest()
    raw = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(6)
    expected = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    assert uniform((2, 3), 3, "mask", 9).flatten().tolist() == expected.tolist()


def test_uniforms_and_permutations_are_what_they_say() -> None:
    n = 20_000
    u = uniform((n,), 1, "law")
    assert 0 <= float(u.min()) < float(u.max()) < 1
    counts = torch.histc(u, 50, 0, 1)
    assert float(((counts - n / 50).square() / (n / 50)).sum()) < 49 + 5 * (2 * 49) ** 0.5  # chi-square, 49 degrees
    assert permutation(1000, 1, "law").sort().values.tolist() == list(range(1000))
    cells = (stratified(1000, 1, "law") * 1000).floor().long()
    assert cells.sort().values.tolist() == list(range(1000))
    assert cells.tolist() != list(range(1000))


def test_a_stream_goes_on_where_it_was() -> None:
    g, whole = generator(2, "go on"), generator(2, "go on").random(10)
    assert [*g.random(3), *g.random(7)] == whole.tolist()


def test_a_run_says_which_streams_it_drew_from(tmp_path: Path, quick) -> None:
    """And a run of older streams, resumed, says once that it will not be the uninterrupted run."""
    from bd3cli.recipes.resolve import resolve
    from bd3cli.training.loop import train
    from bd3cli.training.reporter import Silent
    from bd3cli.training.resume import resume_recipe

    class Noting(Silent):
        def __init__(self) -> None:
            self.texts: list[str] = []

        def notice(self, text: str) -> None:
            self.texts.append(text)

    out = tmp_path / "run"
    train(resolve("tiny", overrides=[*quick, "train.steps=2", "train.validate_sequences=2"]), out)
    record = json.loads((out / "run.json").read_text())
    assert record["stream_version"] == rng.STREAM_VERSION
    del record["stream_version"]  # as a run of version 1 was recorded
    (out / "run.json").write_text(json.dumps(record))
    for steps, told in ((4, 1), (6, 0)):
        reporter = Noting()
        options = {"train.steps": (steps, "test")}
        train(resume_recipe(out, None, options, []), out, resume=True, reporter=reporter)
        found = [text for text in reporter.texts if "streams of version 1" in text]
        assert len(found) == told
    assert [r["stream_version"] for r in json.loads((out / "run.json").read_text())["resumes"]] == [2, 2]
