"""Plugins made up for a test: what an installer leaves behind, a module and a .dist-info directory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bd3cli.plugins import load_plugins

Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _fresh_discovery() -> Iterator[None]:
    modules = set(sys.modules)
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()
    for name in set(sys.modules) - modules:
        if name.startswith(("fake", "broken_")):
            del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(distribution, module, source): as if pip had installed it."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(distribution: str, module: str, source: str, entry_point: str = "main", version: str = "1.2") -> None:
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[bd3cli]\n{entry_point} = {module}\n")

    return add
