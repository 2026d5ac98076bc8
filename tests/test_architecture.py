"""The house: which rooms of the package may import which. The imports are read, nothing is imported.

A room is a package directly under ``bd3cli``; the modules beside the packages are the ground floor. A room imports
rooms on lower floors only: never one above, never one on its own floor. Imports under ``TYPE_CHECKING`` and inside
functions count like all others; of modules, no two import each other, directly or by way of others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

# From the ground up. `face` is what scripts import: it may import every room, and no room imports it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("ground",),
    ("recipes", "plugins"),
    ("schedules",),
    ("weights", "maskings", "attention", "data"),
    ("testing", "model"),
    ("diffusion",),
    ("sampling", "evaluation"),
    ("runs",),
    ("training",),
    ("exchange",),
    ("studies",),
    ("bench", "reproduce"),
    ("cli",),
    ("face",),
)
FACE = {"bd3cli", "bd3cli.config"}
GROUND = {
    "contract",
    "device",
    "errors",
    "faults",
    "files",
    "hashing",
    "hookspecs",
    "parameters",
    "plain",
    "records",
    "rng",
    "spec",
    "version",
}

# A file, and a room it may not import. This may only shrink.
VIOLATIONS: set[tuple[str, str]] = set()

# Modules that import each other. This may only shrink.
CIRCLES: set[frozenset[str]] = set()

# Lines with dict[str, Any], which says nothing of what is in it. This may only shrink.
UNTYPED = 84

# All that a plugin may import: the modules that docs/plugins.md and docs/api.md document.
PUBLIC = {
    "bd3cli",
    "bd3cli.attention",
    "bd3cli.data",
    "bd3cli.diffusion.combinations",
    "bd3cli.errors",
    "bd3cli.evaluation",
    "bd3cli.hookspecs",
    "bd3cli.maskings",
    "bd3cli.parameters",
    "bd3cli.sampling",
    "bd3cli.sampling.checks",
    "bd3cli.schedules",
    "bd3cli.testing",
    "bd3cli.weights",
}


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module of the package."""
    trees = {}
    for path in sorted((REPOSITORY / "bd3cli").rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text("utf-8"), str(path))
    return trees


def names_bound(tree: ast.Module) -> set[str]:
    """Names that the top level of a module binds by import, so that they hide modules of the same name."""
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of bd3cli that a module imports anywhere in it."""
    known = modules()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "bd3cli")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports are not used here"
            if node.module is None or node.module.split(".")[0] != "bd3cli":
                continue
            bound = names_bound(known[node.module]) if node.module in known else set()
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known and alias.name not in bound else node.module


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the other modules of the package that it imports."""
    return {name: set(imported(tree)) - {name} for name, tree in modules().items()}


def room(module: str) -> str:
    """The room a module stands in."""
    if module in FACE:
        return "face"
    name = module.split(".")[1]
    if name == "__main__":
        return "cli"
    return "ground" if name in GROUND else name


def file_of(module: str) -> str:
    path = Path(*module.split("."))
    return str(path / "__init__.py" if (REPOSITORY / path / "__init__.py").exists() else path.with_suffix(".py"))


def floor_of() -> dict[str, int]:
    """Room -> number of its floor."""
    return {name: height for height, floor in enumerate(FLOORS) for name in floor}


def circles() -> set[frozenset[str]]:
    """The largest sets of modules of which each imports every other, directly or by way of others."""
    graph = imports()
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += graph.get(module, ())
        reached[start] = seen
    return {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }


def violations() -> set[tuple[str, str]]:
    """(file, room) for every import of a room that is not on a lower floor."""
    height = floor_of()
    return {
        (file_of(module), room(target))
        for module, targets in imports().items()
        if module not in FACE
        for target in targets
        if room(target) != room(module) and height[room(target)] >= height[room(module)]
    }


def test_imports_count_wherever_they_are() -> None:
    text = (
        "from bd3cli import errors, hookimpl\n"
        "if TYPE_CHECKING:\n    from bd3cli.model.config import Family\n"
        "def f():\n    import bd3cli.rng as r\n    from bd3cli.attention import BlockPlan, reference\n"
    )
    found = sorted(imported(ast.parse(text)))
    assert found == ["bd3cli", "bd3cli.attention", "bd3cli.attention.reference", "bd3cli.errors",
                     "bd3cli.model.config", "bd3cli.rng"]  # fmt: skip


def test_every_module_stands_on_a_floor() -> None:
    homeless = {name for name in modules() if room(name) not in floor_of()}
    assert not homeless, f"give these a room in FLOORS: {sorted(homeless)}"


def test_what_is_listed_is_there() -> None:
    present = {name.split(".")[1] for name in modules() if "." in name}
    assert present == GROUND | set(floor_of()) - {"ground", "face"} | {"__main__", "config"}


def test_rooms_import_lower_floors_only() -> None:
    found = violations()
    assert not found - VIOLATIONS, f"import upwards, or sideways: {sorted(found - VIOLATIONS)}"
    assert not VIOLATIONS - found, f"mended: strike these off the list: {sorted(VIOLATIONS - found)}"


def test_modules_do_not_import_each_other() -> None:
    found = circles()
    assert not found - CIRCLES, f"circles: {[sorted(circle) for circle in found - CIRCLES]}"
    assert not CIRCLES - found, f"mended: strike off the list: {[sorted(circle) for circle in CIRCLES - found]}"


def test_plugins_use_public_modules_only() -> None:
    used = {
        (str(path.relative_to(REPOSITORY)), module)
        for path in sorted((REPOSITORY / "plugins").rglob("*.py"))
        for module in imported(ast.parse(path.read_text("utf-8")))
    }
    private = {(path, module) for path, module in used if module not in PUBLIC}
    assert used, "the plugins import bd3cli"
    assert not private, f"not public: {sorted(private)}"


def test_dictionaries_of_anything_become_fewer() -> None:
    """A document has a type: a record, or a ``TypedDict``. What is left is other people's: TOML, pickles, plugins."""
    paths = (REPOSITORY / "bd3cli").rglob("*.py")
    found = sum("dict[str, Any]" in line for path in paths for line in path.read_text("utf-8").splitlines())
    assert found <= UNTYPED, f"{found} lines with dict[str, Any] in bd3cli/: give the new ones a type"
