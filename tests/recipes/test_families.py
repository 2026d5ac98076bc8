"""One description of the families: everybody asks it, nobody the name, and it says what the networks do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bd3cli.errors import InputError
from bd3cli.model import Transformer, TransformerConfig
from bd3cli.recipes.families import BLOCK_DIFFUSION, FAMILIES, NAMES, Family, get_family, listed
from bd3cli.recipes.options import facts
from bd3cli.recipes.resolve import resolve
from bd3cli.recipes.settings import ModelConfig, ObjectiveConfig, Recipe, read_by
from bd3cli.sampling.registry import choose_sampler, samplers

REPOSITORY = Path(__file__).resolve().parents[2]
DESCRIPTION = "bd3cli/recipes/families.py"
# Files outside the description with a branch on a family's name, and how many. This may only shrink.
BRANCHES: dict[str, int] = {}  # file -> branches on the name of a family that stay there

LENGTH, BLOCK, MASK = 8, 4, 10


def named(tree: ast.AST) -> bool:
    """Whether some constant in it is a family's name."""
    return any(isinstance(node, ast.Constant) and node.value in NAMES for node in ast.walk(tree))


def is_name(node: ast.AST | None) -> bool:
    """Whether it is a family's name, or a collection that holds one."""
    parts = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    return any(isinstance(part, ast.Constant) and part.value in NAMES for part in parts)


def branches(tree: ast.AST) -> Iterator[int]:
    """Lines where a family's name decides something, or gets another name under which it could."""
    for node in ast.walk(tree):
        deciding: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            deciding = [node.left, *node.comparators]
        elif isinstance(node, ast.match_case):
            deciding = [node.pattern]
        elif isinstance(node, ast.Dict):  # a table by family
            deciding = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            deciding = [*node.args] if node.func.attr in ("startswith", "endswith") else []
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            says_whom_it_serves = any(isinstance(t, ast.Name) and t.id == "families" for t in targets)
            if is_name(node.value) and not says_whom_it_serves:
                yield node.lineno
        if any(named(part) for part in deciding):
            yield node.lineno if hasattr(node, "lineno") else 0


@pytest.mark.parametrize(
    "text",
    [
        "if config.family == 'ar': pass",
        "if 'sedd' != family: pass",
        "halves = 2 if family in ('bd3lm', 'sedd') else 1",
        "match family:\n    case 'ar' | 'mdlm': pass",
        "size = {'ar': 1, 'bd3lm': 4}.get(family, 9)",
        "if family.startswith('bd3lm'): pass",
        "CAUSAL = 'ar'",
        "DIFFUSION: set[str] = {'mdlm', 'bd3lm'}",
    ],
)
def test_a_branch_on_the_name_is_seen(text: str) -> None:
    assert list(branches(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "if config.traits.masks: pass",
        "config = TransformerConfig('bd3lm', 9)",
        "families: ClassVar = ('bd3lm', 'mdlm')",
        "'''An ``ar`` network.'''",
        "if sampler == 'semi-ar': pass",
    ],
)
def test_what_is_none_is_not_counted(text: str) -> None:
    assert not list(branches(ast.parse(text)))


def test_families_are_told_apart_in_the_description_only() -> None:
    found = {}
    for folder in ("bd3cli", "plugins"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            lines = list(branches(ast.parse(path.read_text("utf-8"))))
            if lines and str(path.relative_to(REPOSITORY)) != DESCRIPTION:
                found[str(path.relative_to(REPOSITORY))] = lines
    beyond = {path: lines for path, lines in found.items() if len(lines) > BRANCHES.get(path, 0)}
    assert not beyond, f"ask config.traits for the fact that makes the difference, not for the name: {beyond}"
    assert sum(BRANCHES.values()) < 5


def network(family: Family) -> Transformer:
    """A network of several blocks where its family allows it, not fresh: its blocks would pass on their input."""
    size = family.block_size(BLOCK, LENGTH)
    config = TransformerConfig(family.name, MASK + 1, MASK, LENGTH, size, 16, 2, 2, 8, 0.0, family.needs_time)
    torch.manual_seed(0)
    model = Transformer(config, "reference").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def reach(model: Transformer, family: Family) -> tuple[torch.Tensor, torch.Tensor]:
    """[L, L] bool: whether the output at a row's position depends on the noisy, and on the clean, token of a column."""
    tokens = torch.arange(LENGTH).unsqueeze(0)
    sigma = torch.ones(1) if family.needs_time else None
    clean = tokens if model.config.two_halves else None

    def changed(x_t: torch.Tensor, x_0: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = (model(x_t, x_0, sigma) - model(tokens, clean, sigma))[0].abs().amax(-1) > 1e-6
        return out

    noisy, given = [], []
    for position in range(LENGTH):
        other = tokens.clone()
        other[0, position] = MASK
        noisy.append(changed(other, clean))
        given.append(torch.zeros(LENGTH, dtype=torch.bool) if clean is None else changed(tokens, other))
    return torch.stack(noisy, 1), torch.stack(given, 1)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_networks_attend_as_described(family: Family) -> None:
    noisy, clean = reach(network(family), family)
    row, column = torch.arange(LENGTH).unsqueeze(1), torch.arange(LENGTH)
    expected = {
        "causal": (column <= row, column < 0),
        "full": (column >= 0, column < 0),
        "block-causal": (row // BLOCK == column // BLOCK, column // BLOCK < row // BLOCK),
    }[family.attention]
    assert torch.equal(noisy, expected[0].expand(LENGTH, LENGTH))
    assert torch.equal(clean, expected[1].expand(LENGTH, LENGTH))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_networks_have_the_modulation_described(family: Family) -> None:
    assert any("adaLN" in name for name, _ in network(family).named_parameters()) == family.modulated


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_noise_level_is_told_to_whom_it_can_be(family: Family) -> None:
    def recipe(told: bool | None) -> Recipe:
        return Recipe(model=ModelConfig(time_conditioning=told), objective=ObjectiveConfig(family=family.name))

    assert recipe(None).time_conditioning == family.needs_time
    if family.needs_time:
        with pytest.raises(InputError, match=f"cannot be false for family '{family.name}'.*choose family mdlm"):
            recipe(False)
        with pytest.raises(InputError, match=f"must be true for {family.name}"):
            TransformerConfig(family.name, 9, 8, 4, 4)
    else:
        assert not recipe(False).time_conditioning
    if family.tells_level:
        assert recipe(True).time_conditioning
    else:
        with pytest.raises(InputError, match=f"has {family.noise_levels}.*choose family mdlm or sedd"):
            recipe(True)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_options_without_effect_are_refused_and_others_taken(family: Family) -> None:
    other: dict[str, dict[str, Any]] = {  # a value that is not the default, and what it needs beside it
        "schedule": {"schedule": "cosine"},
        "weight": {"weight": "sigmoid"},
        "clip": {"clip": (0.2, 0.8)},
        "clip_search": {"clip_search": "search"},
        "resample": {"resample": True, "clip": (0.2, 0.8)},
        "normalise_weight": {"normalise_weight": True},
        "random_batch": {"random_batch": True},
    }
    assert set(other) | set(read_by("search")) == {key for key, known in facts(ObjectiveConfig).items() if known.reader}
    for key, values in other.items():
        if (key == "random_batch") == family.masks:
            with pytest.raises(InputError, match=f"no effect on family '{family.name}', {family.mask_use}"):
                Recipe(objective=ObjectiveConfig(family=family.name, **values))
        else:
            Recipe(objective=ObjectiveConfig(family=family.name, **values))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_asking_for_a_family_asks_for_its_masking(family: Family) -> None:
    resolved = resolve(None, {"objective.family": (family.name, "--family")}, [], {})
    assert resolved.recipe.objective.masking == (family.default_masking or ObjectiveConfig().masking)
    assert (family.default_masking is None) == (not family.masks)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_its_samplers_exist_and_serve_it(family: Family) -> None:
    assert choose_sampler(network(family).config) in samplers(family.name)
    if family.beyond_context is not None:
        assert choose_sampler(network(family).config, family.beyond_context) == family.beyond_context


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_weights_fit_the_family_they_may_be_cut_into(family: Family) -> None:
    if family.recut is not None:
        network(get_family(family.recut)).load_state_dict(network(family).state_dict())


def test_block_sizes_and_bounds() -> None:
    assert {name: f.block_size(4, 128) for name, f in FAMILIES.items()} == {
        "ar": 1, "sedd": 128, "mdlm": 128, "bd3lm": 4,
    }  # fmt: skip
    bounds = {name: (f.is_bound(1), f.is_bound(4)) for name, f in FAMILIES.items()}
    assert bounds["ar"] == (False, False)
    assert bounds["bd3lm"] == (False, True)  # one masked token has one mask: the bound is tight
    assert [name for name, f in FAMILIES.items() if f.chooses_blocks] == [BLOCK_DIFFUSION.name]


def test_the_page_says_the_same() -> None:
    page = (REPOSITORY / "docs" / "families.md").read_text("utf-8")
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    rows = {cells[0].strip("`"): cells[1:] for cells in table[1:]}  # the head apart
    assert set(rows) == set(FAMILIES)
    attention = {"causal": "causal", "everywhere": "full", "own noisy block, clean earlier blocks": "block-causal"}
    blocks = {"1": "token", "the whole length": "whole", "`objective.block_size`": "chosen"}
    loss = {"-log p of the next token": "next-token", "masked NELBO": "subs", "score entropy": "score"}
    for name, (attends, size, minimised, perplexity) in rows.items():
        family = FAMILIES[name]
        assert family.attention == attention[attends]
        assert family.blocks == blocks[size]
        assert family.parameterization == loss[minimised]
        assert family.likelihood == ("bound" if "bound" in perplexity else "exact")


def test_facts_that_follow_from_others() -> None:
    for family in FAMILIES.values():
        next_token = family.parameterization == "next-token"
        assert family.causal == next_token == (not family.masks) == (not family.modulated)
        assert family.needs_time == (family.parameterization == "score"), "a score belongs to a noise level"
        levels = {"token": "none", "whole": "one a sequence", "chosen": "one a block"}
        assert family.noise_levels == levels[family.blocks]


def test_there_is_no_other() -> None:
    with pytest.raises(InputError, match=r"no family 'bd3ml'\. Did you mean 'bd3lm'.*ar, sedd, mdlm, bd3lm"):
        get_family("bd3ml")
    with pytest.raises(InputError, match="no family"):
        Recipe(objective=ObjectiveConfig(family="none"))  # type: ignore[arg-type]
    assert listed(FAMILIES.values()) == "ar, bd3lm, mdlm or sedd"
    assert listed([BLOCK_DIFFUSION]) == "bd3lm"
