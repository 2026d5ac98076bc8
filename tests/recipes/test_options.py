"""What is declared of an option is what happens: its bounds, who reads it, whether a resumed run may change it."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from bd3cli.diffusion.combinations import refuse_ignored
from bd3cli.errors import InputError
from bd3cli.maskings import get_masking
from bd3cli.recipes.options import Facts, facts, option
from bd3cli.recipes.resolve import Resolved, known_keys, resolve
from bd3cli.recipes.settings import SIZES, ObjectiveConfig, Recipe, read_by
from bd3cli.runs.directory import RunDirectory, new_record
from bd3cli.training.resume import changeable, resume_recipe

KEYS = known_keys()
SEEDS = {"seed", "data.subset_seed", "eval.seed"}  # any whole number is one
OTHER: dict[str, Any] = {  # another value, where one cannot be made from the type
    "data.name": "t.txt",
    "data.detokenize": "none",
    "objective.family": "mdlm",
    "objective.masking": "bernoulli",
    "objective.clip_widths": "0.25",
    "train.tracking": "tensorboard",
    "model.size": "small",
}
# Their other value is refused in the default recipe, whatever is being done with it.
COMPANY = {"model.time_conditioning", "objective.resample", "objective.random_batch"} | {
    f"objective.{name}" for name in read_by("search")
}


def other(key: str) -> Any:
    """A value that is not the default."""
    known, default = KEYS[key], KEYS[key].default
    choices = get_args(known.annotation) if get_origin(known.annotation) is Literal else ()
    if key in OTHER:
        return OTHER[key]
    if choices:
        return next(choice for choice in choices if choice != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default * 2 or 1
    if isinstance(default, float):
        return default / 2 or 0.01
    if default is None:  # of which type is in the annotation
        types = get_args(known.annotation)
        return True if bool in types else 2 if int in types else "x.txt" if str in types else (0.2, 0.8)
    return "other"


def with_value(key: str, value: Any, recipe: Recipe | None = None) -> Recipe:
    recipe = recipe or Recipe()
    section, _, name = key.rpartition(".")
    if not section:
        return replace(recipe, **{name: value})
    return replace(recipe, **{section: replace(getattr(recipe, section), **{name: value})})


def test_every_option_is_declared_with_its_facts() -> None:
    sections = [Recipe, *(type(getattr(Recipe(), f.name)) for f in fields(Recipe))]
    for section in filter(is_dataclass, sections):
        plain = {f.name for f in fields(section)} - set(facts(section))
        assert plain == ({"data", "model", "objective", "train", "eval"} if section is Recipe else set())
    assert all(key.facts.help for key in KEYS.values())


def test_every_number_has_bounds() -> None:
    def of(kind: type) -> set[str]:
        return {name for name, key in KEYS.items() if kind in (key.annotation, *get_args(key.annotation))}

    assert {name for name in of(int) if KEYS[name].facts.least is None} == SEEDS
    assert {name for name in of(float) if KEYS[name].facts.within is None} == {"objective.clip_step"}  # see clip_grid


BOUNDED = [name for name, key in KEYS.items() if key.facts.least is not None or key.facts.within is not None]


@pytest.mark.parametrize("key", BOUNDED)
def test_values_out_of_bounds_are_refused_by_name(key: str) -> None:
    known = KEYS[key].facts
    if known.least is not None:
        with pytest.raises(InputError, match=rf"^{key} must be at least {known.least}, not {known.least - 1}\.$"):
            with_value(key, known.least - 1)
        with pytest.raises(InputError, match=rf"^{key} must be at most {known.most:,}, not {known.most + 1}\.$"):
            with_value(key, known.most + 1)
        known.require(key, known.least)
        known.require(key, known.most)
    if known.within is not None:
        low, high = known.within
        for wrong in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan, math.inf):
            with pytest.raises(InputError, match=f"^{key} must lie between"):
                with_value(key, wrong)
        known.require(key, low)
        known.require(key, high)
    known.require(key, None)


def test_an_option_of_a_new_section_is_checked_too() -> None:
    declared = option(3, "an example", least=2, most=5, reader="time").metadata["facts"]
    assert declared == Facts("an example", least=2, most=5, reader="time")
    with pytest.raises(InputError, match=r"^mine must be at most 5, not 6\.$"):
        declared.require("mine", 6)


@pytest.fixture(scope="module")
def resumable_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    resolved = resolve(None, overrides=["train.horizon=1000"], environment={})
    RunDirectory(path).create(resolved, new_record(resolved, []))
    return path


@pytest.mark.parametrize("key", KEYS)
def test_a_resumed_run_may_change_what_is_declared_so(resumable_run: Path, key: str) -> None:
    assert other(key) != KEYS[key].default
    changed = {key: (other(key), "--set")}
    if KEYS[key].facts.resumable:
        resolved = resume_recipe(resumable_run, None, changed, [])
        assert resolved.values()[key] == other(key)
        return
    reason = f"^{key} " if key in COMPANY else rf"would change it: {key} \("
    with pytest.raises(InputError, match=reason):
        resume_recipe(resumable_run, None, changed, [])


def test_what_decides_the_weights_is_not_resumable() -> None:
    fixed = {name for name, key in KEYS.items() if not key.facts.resumable}
    assert {name for name in fixed if name.startswith("train.")} == {
        f"train.{name}"
        for name in (
            "batch_size", "learning_rate", "beta1", "beta2", "weight_decay", "gradient_clip", "warmup", "horizon",
            "ema", "precision", "validate_sequences",
        )
    }  # fmt: skip
    assert {name for name in KEYS if not name.startswith("train.")} - fixed == {"data.workers"}


def test_validations_stay_where_a_clip_is_searched_for() -> None:
    searching = with_value("objective.clip_search", "search")
    resumable = {key for key, known in KEYS.items() if known.facts.resumable}
    assert resumable - changeable(searching) == {"train.validate_every"}
    assert changeable(Recipe()) == resumable


def test_what_a_masking_does_not_read_is_refused_by_it() -> None:
    needs = {"clip_search": {}, "resample": {"clip": (0.2, 0.8)}}
    for name in read_by("time", "search"):
        config = ObjectiveConfig(**({name: other(f"objective.{name}")} | needs.get(name, {})))
        with pytest.raises(InputError, match=r"has no effect with masking 'count', which draws no time"):
            refuse_ignored(config, get_masking("count"))
        refuse_ignored(config, get_masking("bernoulli"))
    for name in read_by("masks"):
        refuse_ignored(ObjectiveConfig(**{name: other(f"objective.{name}")}), get_masking("count"))


def test_what_only_a_search_reads_is_refused_without_one() -> None:
    for name in read_by("search"):
        with pytest.raises(InputError, match=f"objective.{name} has no effect while the clip is fixed"):
            with_value(f"objective.{name}", other(f"objective.{name}"))
        searching = with_value("objective.clip_search", "search")
        with_value(f"objective.{name}", other(f"objective.{name}"), searching)


def test_asking_for_what_draws_a_time_asks_for_a_masking_that_does() -> None:
    needs = {"resample": {"objective.clip": ((0.2, 0.8), "--clip")}}
    for name in read_by("time"):
        asked = {f"objective.{name}": (other(f"objective.{name}"), "--set")} | needs.get(name, {})
        resolved: Resolved = resolve(None, asked, environment={})
        assert resolved.recipe.objective.masking == "bernoulli"
        assert resolved.sources["objective.masking"].startswith("implied by objective.")


def test_a_size_sets_options_of_its_own_section() -> None:
    assert {f"model.{name}" for sizes in SIZES.values() for name in sizes} <= set(KEYS)
