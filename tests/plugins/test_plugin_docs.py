"""The plugin tutorial: every hook is documented, its code runs as it stands, and its schedule is short."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bd3cli import hookspecs
from bd3cli.data import list_datasets, load_tokenizer
from bd3cli.data.corpora import find_dataset
from bd3cli.plugins import load_plugins
from bd3cli.plugins.registry import Entry
from bd3cli.sampling import checks
from bd3cli.sampling.checks import check_sampler
from bd3cli.schedules.base import NoiseSchedule
from bd3cli.testing import (
    assert_laws,
    check_dataset,
    check_schedule,
    check_tokenizer,
    dataset,
    masking,
    schedule,
    tokenizer,
    weight,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIAL = (DOCS / "plugins.md").read_text(encoding="utf-8")
REFERENCE = (DOCS / "schedules.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("register_")])
def test_every_hook_is_documented(hook: str) -> None:
    assert f"`{hook}(register)`" in TUTORIAL
    assert getattr(hookspecs, hook).__doc__


@pytest.mark.parametrize("member", [n for n in vars(NoiseSchedule) if not n.startswith("_") and n != "time_at"])
def test_every_member_of_a_schedule_is_documented(member: str) -> None:
    assert re.search(rf"^\| `{member}[(`]", TUTORIAL, re.MULTILINE), member


def test_every_law_is_documented() -> None:
    for law, _ in (*schedule.LAWS, *weight.LAWS, *masking.LAWS, *checks.LAWS, *dataset.LAWS, *tokenizer.LAWS):
        assert law in REFERENCE or law in TUTORIAL or law in ("positive", "shapes", "given", "pure", "rows"), law


def test_every_schedule_weight_and_masking_is_documented() -> None:
    plugins = load_plugins()
    for registry in (plugins.schedules, plugins.weights, plugins.maskings):
        for entry in registry.entries():
            assert f"`{entry.name}" in REFERENCE, entry.name


CLASSES = [node for block in BLOCKS for node in ast.parse(block).body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("definition", CLASSES, ids=lambda node: node.name)
def test_the_tutorials_classes_are_short(definition: ast.ClassDef) -> None:
    code = ast.unparse(definition).splitlines()  # without blank lines
    assert len([line for line in code if line.strip()]) <= 10


def test_the_tutorials_code_runs_and_its_schedule_obeys_the_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/plugins.md", "exec"), namespace)
    monkeypatch.setattr("pickle.dumps", lambda obj: obj)  # the class lives in no module that could be imported
    monkeypatch.setattr("pickle.loads", lambda obj: obj)
    for bend in (0.0, 0.5, 0.95):
        assert_laws(check_schedule(namespace["Ramp"](bend)))
    registered: dict[str, str] = {}
    namespace["register_noise_schedules"](register=registered.__setitem__)
    assert registered == {"ramp": "bd3cli_ramp.schedule:Ramp"}
    load_plugins.cache_clear()
    load_plugins().schedules.add(Entry("ramp", namespace["Ramp"], "bd3cli-ramp", "0.1"))
    registry = load_plugins().registry
    for kind, name in (("sampler", "LeftToRight"), ("dataset", "Squares"), ("tokenizer", "LowerCase")):
        registered_as = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
        registry[kind].add(Entry(registered_as, namespace[name], "bd3cli-ramp", "0.1"))
    namespace["test_laws"]()
    assert_laws(check_sampler("left-to-right:together=2"))
    assert_laws(check_dataset("squares"))
    load_tokenizer.cache_clear()
    assert_laws(check_tokenizer("lower-case"))
    assert load_tokenizer("lower-case").decode(load_tokenizer("lower-case").encode("Ab")) == "ab"
    load_plugins.cache_clear()
    load_tokenizer.cache_clear()


def test_the_tutorials_data_set_of_the_hub_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, Any] = {}
    (block,) = [block for block in BLOCKS if "STORIES" in block]
    exec(compile(block, "docs/plugins.md", "exec"), namespace)
    load_plugins.cache_clear()
    monkeypatch.setitem(sys.modules, "fake_stories", SimpleNamespace(**namespace))
    load_plugins().registry["dataset"].add(Entry("stories", "fake_stories:STORIES", "bd3cli-stories", "0.1"))
    assert find_dataset("stories") == namespace["STORIES"]
    assert "stories" in [info.name for info in list_datasets()]
    load_plugins.cache_clear()
