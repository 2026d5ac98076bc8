"""The laws of samplers hold for those that ship, and fail for ones that break them."""

from __future__ import annotations

import pytest
import torch

from bd3cli.plugins import load_plugins
from bd3cli.plugins.registry import Entry
from bd3cli.sampling import Blockwise
from bd3cli.sampling.checks import check_sampler
from bd3cli.testing import assert_laws


@pytest.fixture
def register():
    """register(cls): the sampler called ``mine``."""
    load_plugins.cache_clear()
    yield lambda cls: load_plugins().registry["sampler"].add(Entry("mine", cls, "bd3cli-mine", "1"))
    load_plugins.cache_clear()


def failing(spec: str) -> dict[str, str]:
    return {law.law: law.detail for law in check_sampler(spec) if not law.ok}


@pytest.mark.parametrize("spec", ["first-hitting", "ancestral", "confidence", "semi-ar", "ar", "analytic"])
def test_what_ships_obeys_the_laws(spec: str) -> None:
    assert_laws(check_sampler(spec))


def test_a_wrong_claim_to_be_exact_fails(register) -> None:
    class All(Blockwise):
        exact = True

        def order(self, u):
            return torch.zeros_like(u, dtype=torch.long)  # a whole block at once, each token on its own

    register(All)
    assert list(failing("mine")) == ["exact"]


def test_randomness_from_elsewhere_fails(register) -> None:
    class Elsewhere(Blockwise):
        def order(self, u):
            return torch.rand(u.shape).argsort(-1)

    register(Elsewhere)
    assert "rows" in failing("mine")


def test_a_family_that_is_none_fails(register) -> None:
    class Lost(Blockwise):
        families = ("gpt",)

        def order(self, u):
            return u.argsort(-1)

    register(Lost)
    assert "there is no family 'gpt'" in failing("mine")["families"]
