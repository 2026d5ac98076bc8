"""The public surface: every public module says what it offers, and plugins and examples use nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from test_architecture import PUBLIC, REPOSITORY

API = (REPOSITORY / "docs" / "api.md").read_text("utf-8")
DOCUMENTED = re.findall(r"^\.\. auto(?:function|class):: (\S+)$", API, re.MULTILINE)
MODULES = sorted(PUBLIC | {name.rpartition(".")[0] for name in DOCUMENTED})


def used(path: Path) -> set[tuple[str, str]]:
    """(module, name) of everything that a file imports from bd3cli by name."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bd3cli"
        for alias in node.names
    }


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_says_what_it_offers(name: str) -> None:
    module = importlib.import_module(name)
    offered = module.__all__
    assert len(set(offered)) == len(offered)
    assert not [each for each in offered if not hasattr(module, each)]
    things = {each: getattr(module, each) for each in offered}
    undocumented = [
        each for each, x in things.items() if (inspect.isclass(x) or inspect.isroutine(x)) and not x.__doc__
    ]
    assert not undocumented, "what is offered is explained"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_is_documented_is_offered(name: str) -> None:
    module, _, thing = name.rpartition(".")
    assert thing in importlib.import_module(module).__all__


@pytest.mark.parametrize("folder", ["plugins", "examples"])
def test_what_others_import_is_offered(folder: str) -> None:
    found = {
        (str(path.relative_to(REPOSITORY)), module, name)
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        for module, name in used(path)
    }
    assert found
    private = {
        (path, module, name)
        for path, module, name in found
        if module not in MODULES or name not in importlib.import_module(module).__all__
    }
    assert not private


def test_every_module_begins_with_a_sentence() -> None:
    paths = sorted((REPOSITORY / "bd3cli").rglob("*.py"))
    first = {
        str(path.relative_to(REPOSITORY)): (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")[0]
        for path in paths
    }
    assert not [f"{path}: {line!r}" for path, line in first.items() if not re.fullmatch(r"\S.+\.", line)]
