"""Start a plugin: a distribution that installs and passes its own tests unchanged."""

from __future__ import annotations

import keyword
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from bd3cli.errors import InputError, RunError
from bd3cli.plugins import load_plugins
from bd3cli.plugins.registry import NAME

SUFFIX = ".in"  # so that no tool takes a template for code of this package


def scaffold(name: str, folder: Path) -> list[Path]:
    """Write a plugin called `name` into a new directory.

    Args:
        name: lower-case words with hyphens; the schedule and the loss weight get it too.
        folder: directory to create; it must not exist, or be empty.

    Returns:
        The files written, relative to `folder`.

    Raises:
        InputError: the name is malformed or taken, or the directory is in use.
        RunError: the directory cannot be written.
    """
    _check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists and is not empty. Choose another --out.")
    words = _words(name)
    written = []
    try:
        for source, target in _templates(resources.files(__package__) / "template", Path()):
            path = Path(_fill(str(target), words))
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(_fill(source.read_text("utf-8"), words), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}. Choose another --out.") from error
    return sorted(written)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a plugin name: use lower-case words and hyphens, such as my-noise.")
    if keyword.iskeyword(name):
        raise InputError(f"{name!r} is a word of the Python language. Choose another name.")
    plugins = load_plugins()
    for registry in (plugins.schedules, plugins.weights):
        for entry in registry.entries():
            if entry.name == name:
                raise InputError(
                    f"{registry.kind} {name!r} is already provided by {entry.distribution} {entry.version}. "
                    "Choose another name."
                )


def _words(name: str) -> dict[str, str]:
    from bd3cli.version import __version__

    major, minor = __version__.split(".")[:2]
    return {
        "@NAME@": name,
        "@DISTRIBUTION@": f"bd3cli-{name}",
        "@PACKAGE@": f"bd3cli_{name.replace('-', '_')}",
        "@CLASS@": "".join(word.capitalize() for word in name.split("-")),
        "@BD3CLI@": f"{major}.{minor}",
    }


def _templates(folder: Traversable, prefix: Path) -> list[tuple[Traversable, Path]]:
    """Every template file below `folder`, with the relative path it is written to."""
    found = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _templates(item, prefix / ("@PACKAGE@" if item.name == "package" else item.name))
        elif item.name.endswith(SUFFIX):
            found.append((item, prefix / item.name.removesuffix(SUFFIX)))
    return found


def _fill(text: str, words: dict[str, str]) -> str:
    for placeholder, value in words.items():
        text = text.replace(placeholder, value)
    return text
