"""Recipes: precedence, provenance, refusal of what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from bd3cli.diffusion.objective import Objective
from bd3cli.errors import InputError
from bd3cli.recipes.resolve import from_toml, known_keys, resolve, shipped_recipes, to_toml
from bd3cli.recipes.settings import Recipe


def test_precedence_is_command_line_then_environment_then_recipe_then_default(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[train]\nsteps = 1\nbatch_size = 2\nlog_every = 3\n")
    resolved = resolve(
        recipe,
        {"train.steps": (30, "--steps")},
        ["train.steps=40"],
        {"BD3CLI_TRAIN_STEPS": "20", "BD3CLI_TRAIN_BATCH_SIZE": "21"},
    )
    assert resolved.recipe.train.steps == 40
    assert resolved.recipe.train.batch_size == 21
    assert resolved.recipe.train.log_every == 3
    assert resolved.recipe.train.keep_checkpoints == 2
    assert resolved.recipe.name == "mine"
    assert resolved.sources["train.steps"] == "--set"
    assert resolved.sources["train.batch_size"] == "$BD3CLI_TRAIN_BATCH_SIZE"
    assert resolved.sources["train.log_every"] == str(recipe)
    assert resolved.sources["train.keep_checkpoints"] == "default"


def test_every_key_is_traceable() -> None:
    resolved = resolve("lm1b-bd3lm-4", environment={})
    assert set(resolved.sources) == set(known_keys()) == set(resolved.values())
    assert resolved.sources["model.hidden_size"] == "model.size=small (recipe lm1b)"
    assert resolved.sources["objective.clip"] == "recipe lm1b-bd3lm-4"


def test_a_size_preset_stands_below_explicit_sizes_of_its_layer_and_above_lower_layers() -> None:
    resolved = resolve("tiny", {"model.size": ("small", "--model")}, ["model.blocks=3"], {})
    model = resolved.recipe.model
    assert (model.hidden_size, model.blocks, model.heads) == (768, 3, 12)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_survive_a_round_trip(name: str) -> None:
    recipe = resolve(name, environment={}).recipe
    assert recipe.description
    assert from_toml(to_toml(recipe), name) == recipe
    Objective.build(recipe.objective, mask_id=0, block_size=recipe.block_size)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.step=3", "Did you mean 'train.steps'"),
        ("train.steps=many", "train.steps must be a whole number, not 'many'"),
        ("train.steps=0", "train.steps must be at least 1, not 0"),
        ("train.steps", "is not section.key=value"),
        ("train=3", "is a section"),
        ("objective.block_size=5", "does not divide model.length 128. Choose one of 1, 2, 4"),
        ("objective.family=bd3", "Did you mean 'bd3lm'"),
        ("objective.clip=0.8,0.3", "is not an interval"),
        ("objective.clip=0.8", "two numbers"),
        ("objective.resample=true", "needs objective.clip"),
        ("model.heads=5", "cannot be split into 5 heads"),
        ("train.learning_rate=nan", "train.learning_rate must be a number"),
        ("train.micro_batch_size=7", "does not divide train.batch_size"),
        ("train.compile=maybe", "true or false"),
    ],
)
def test_a_wrong_value_is_refused_with_the_remedy(override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        resolve("tiny", overrides=[override], environment={})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstep = 3\n", "Did you mean 'train.steps'"),
        ("[trian]\nsteps = 3\n", "no setting 'trian.steps'"),
        ("[train]\nsteps = true\n", "must be a whole number, not True"),
        ("[train]\nsteps = 1.5\n", "must be a whole number, not 1.5"),
        ("[data]\nname = 3\n", "data.name must be text, not 3"),
        ("steps = \n", "is not valid TOML"),
        ("extends = 3\n", "extends must name one recipe"),
        ("extends = 'self.toml'\n", "extend each other in a circle"),
        ("extends = 'nothing.toml'\n", "cannot be read"),
        ("train = 3\n", "is a section"),
    ],
)
def test_a_wrong_recipe_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "self.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        resolve(path, environment={})
    assert message in str(error.value)


def test_a_misspelt_variable_is_an_error_not_a_silence() -> None:
    with pytest.raises(InputError, match=r"BD3CLI_TRAIN_STEP sets nothing\. Did you mean 'BD3CLI_TRAIN_STEPS'"):
        resolve("tiny", environment={"BD3CLI_TRAIN_STEP": "3"})


def test_asking_for_a_schedule_or_clip_implies_the_masking_that_reads_it() -> None:
    resolved = resolve("tiny", {"objective.clip": ("0.3,0.8", "--clip")}, environment={})
    assert resolved.recipe.objective.masking == "bernoulli"
    assert resolved.sources["objective.masking"] == "implied by objective.clip"


@pytest.mark.parametrize("override", ["objective.schedule=cosine", "objective.clip=0.3,0.8"])
def test_a_schedule_that_the_masking_ignores_is_refused(override: str) -> None:
    recipe = resolve("tiny", overrides=["objective.masking=count", override], environment={}).recipe
    with pytest.raises(InputError, match="masking"):
        Objective.build(recipe.objective, mask_id=0, block_size=recipe.block_size)


def test_the_full_schedule_is_refused_for_larger_blocks() -> None:
    recipe = resolve("tiny", overrides=["objective.schedule=full"], environment={}).recipe
    with pytest.raises(InputError, match="block size 1"):
        Objective.build(recipe.objective, mask_id=0, block_size=recipe.block_size)


def test_an_option_without_effect_on_ar_is_refused() -> None:
    with pytest.raises(InputError, match="no effect on family 'ar'"):
        resolve("tiny", overrides=["objective.family=ar", "objective.weight=edm"], environment={})


def test_warmup_never_takes_more_than_a_tenth_of_the_run() -> None:
    recipe = resolve("tiny", overrides=["train.steps=500", "train.warmup=2500"], environment={}).recipe
    assert recipe.warmup_steps == 50
    assert resolve("lm1b-ar", environment={}).recipe.warmup_steps == 2500


def test_defaults_are_a_valid_recipe() -> None:
    assert Recipe().block_size == 4


@pytest.mark.parametrize(("family", "effective"), [("ar", 1), ("sedd", 128), ("mdlm", 128)])
def test_a_block_size_the_family_does_not_have_is_refused(family: str, effective: int) -> None:
    options = {"objective.family": (family, "--family"), "objective.block_size": (8, "--block-size")}
    with pytest.raises(InputError, match=f"has no effect on family '{family}', whose block size is {effective}"):
        resolve("tiny", options, environment={})
    same = resolve("tiny", options | {"objective.block_size": (effective, "--block-size")}, environment={})
    assert same.recipe.block_size == effective
    assert resolve("tiny", {"objective.family": (family, "--family")}, environment={}).recipe.block_size == effective


def test_sedd_implies_bernoulli_unless_a_masking_is_named() -> None:
    implied = resolve("tiny", overrides=["objective.family=sedd"], environment={})
    assert implied.recipe.objective.masking == "bernoulli"
    assert implied.sources["objective.masking"] == "implied by objective.family"
    named = resolve("tiny", overrides=["objective.family=sedd", "objective.masking=count"], environment={})
    assert named.recipe.objective.masking == "count"
    continued = resolve(None, {"train.steps": (5, "--steps")}, environment={}, base=named)
    assert continued.recipe.objective.masking == "count"
