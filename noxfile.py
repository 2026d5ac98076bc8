"""Test sessions. `nox` runs the default ones: lint, tests, plugins, docs. `nox -l` lists all."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.reuse_venv = "yes"
nox.options.tags = ["default"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PLUGINS = sorted(str(path.parent) for path in Path("plugins").glob("*/pyproject.toml"))


def install(session: nox.Session, *groups: str) -> None:
    """bd3cli with every plugin, and dependency groups, in one resolution."""
    session.install(".", *PLUGINS, *nox.project.dependency_groups(PYPROJECT, *groups))


@nox.session(tags=["default"])
def lint(session: nox.Session) -> None:
    """Formatting rules and types: of the package, the plugins and the tests."""
    install(session, "lint", "test")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(tags=["default"])
def tests(session: nox.Session) -> None:
    """The fast tests, on every core."""
    install(session, "test")
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)


@nox.session(tags=["default"], reuse_venv=False)  # broken plugins stay behind in it
def plugins(session: nox.Session) -> None:
    """Plugins as users install them: the built wheel, shipped, scaffolded and broken ones; their own tests."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)  # a reused environment keeps the last run's
    folder.mkdir()
    session.install("build", *nox.project.dependency_groups(PYPROJECT, "test"))
    session.run("python", "-m", "build", "--wheel", "--outdir", str(folder / "wheel"), ".", silent=True)
    (wheel,) = (folder / "wheel").glob("bd3cli-*.whl")
    session.install(str(wheel), *PLUGINS)
    work = folder / "work"
    work.mkdir()
    new = ("bd3cli", "plugins", "new")
    scaffolded = [str(work / "bd3cli-scaffolded")]
    session.run(*new, "scaffolded", "--out", scaffolded[0], silent=True)
    for kind in ("schedule", "weight", "masking", "sampler", "dataset", "tokenizer"):
        scaffolded.append(str(work / f"bd3cli-scaffolded-{kind}"))
        session.run(*new, f"scaffolded-{kind}", "--kind", kind, "--out", scaffolded[-1], silent=True)
    made_up = sorted(str(path.parent) for path in Path("tests").glob("*_plugins/*/pyproject.toml"))
    session.install("--no-deps", *scaffolded, *made_up)
    session.run("python", "tests/plugin_session.py", str(work))


@nox.session(tags=["default"])
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")
    session.run("sphinx-build", "-W", "-b", "doctest", "docs", "docs/_build/doctest")


@nox.session(tags=["coverage"])
def coverage(session: nox.Session) -> None:
    """The fast tests, and which lines and branches of the package they run."""
    install(session, "test")
    session.run("pytest", "--cov", "--cov-report=term", "--cov-report=html", *session.posargs)


@nox.session(tags=["slow"])
def slow(session: nox.Session) -> None:
    """Tests that take more than a few seconds each."""
    install(session, "test")
    session.run("pytest", "-m", "slow and not gpu", *session.posargs)


@nox.session(tags=["gpu"])
def gpu(session: nox.Session) -> None:
    """Tests that need a CUDA device."""
    install(session, "test")
    session.run("pytest", "-m", "gpu", *session.posargs)
