"""What a source distribution holds, and that every fact of the packaging stands in one place."""

from __future__ import annotations

import re
import tarfile
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder

import bd3cli

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths of the files in the source distribution, relative to its one folder."""
    folder = tmp_path_factory.mktemp("sdist")
    (file,) = SdistBuilder(str(REPOSITORY)).build(directory=str(folder))
    with tarfile.open(file) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def sources(folder: str) -> set[str]:
    """Python files, texts and settings below a folder of the repository, but for what is generated."""
    generated = {"_build", "generated", "__pycache__", "build", "dist"}
    return {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".py", ".md", ".toml", ".in", ".typed"}
        and not generated & set(path.relative_to(REPOSITORY).parts)
    }


@pytest.mark.parametrize("folder", ["bd3cli", "plugins", "examples", "docs", "tests"])
def test_the_sdist_holds_every_source_of(folder: str, packed: set[str]) -> None:
    assert sources(folder)
    assert not sources(folder) - packed


def test_the_sdist_holds_what_a_reader_looks_for(packed: set[str]) -> None:
    expected = {
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "LICENSE",
        "noxfile.py",
        "pyproject.toml",
    }
    assert not expected - packed


def test_the_sdist_holds_nothing_generated(packed: set[str]) -> None:
    assert not [path for path in packed if re.search(r"__pycache__|^docs/(_build|generated)|\.pyc$", path)]


def test_there_is_one_version() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert bd3cli.__version__ == version("bd3cli")
    citation = (REPOSITORY / "CITATION.cff").read_text("utf-8")
    assert not re.search(r"^version:", citation, re.MULTILINE), "a second place to keep up to date"


def test_ci_runs_nox_on_every_python_that_is_promised() -> None:
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    listed = re.search(r"python: \[(.*)\]", workflow)
    assert listed is not None
    prefix = "Programming Language :: Python :: "
    promised = [c.removeprefix(prefix) for c in PROJECT["project"]["classifiers"] if c.startswith(prefix)]
    assert re.findall(r"[\d.]+", listed[1]) == promised
