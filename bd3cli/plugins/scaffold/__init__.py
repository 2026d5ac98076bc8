"""Start a plugin: a distribution that installs and passes its own tests unchanged."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from bd3cli.errors import InputError, RunError, did_you_mean
from bd3cli.plugins import load_plugins
from bd3cli.plugins.kinds import KINDS, Kind
from bd3cli.plugins.registry import NAME

SUFFIX = ".in"  # so that no tool takes a template for code of this package
DEFAULT = ("schedule", "weight")
# What to try a plugin of each kind with.
USE = {
    "schedule": (
        "bd3cli schedules check @NAME@",
        "bd3cli schedules plot loglinear @NAME@",
        "bd3cli train --schedule @NAME@:exponent=1.2",
    ),
    "weight": ("bd3cli weights check @NAME@", "bd3cli train --weight @NAME@"),
    "masking": ("bd3cli maskings check @NAME@", "bd3cli train --masking @NAME@:tilt=1"),
    "sampler": ("bd3cli sample RUN --sampler @NAME@:together=4",),
    "dataset": ("bd3cli data show @NAME@", "bd3cli train --data @NAME@:count=5000"),
    "tokenizer": ("bd3cli data prepare pydocs --tokenizer @NAME@", "bd3cli train --tokenizer @NAME@"),
}
HOOK = """

@hookimpl
def {hook}(register: Register) -> None:
    register("@NAME@", "@PACKAGE@.{key}:@CLASS@{suffix}")"""


def scaffold(name: str, folder: Path, kinds: Sequence[str] = DEFAULT) -> list[Path]:
    """Write a plugin called `name` into a new directory.

    Args:
        name: lower-case words with hyphens; everything the plugin registers gets it.
        folder: directory to create; it must not exist, or be empty.
        kinds: keys of `bd3cli.plugins.kinds.KINDS`; one of each is written.

    Returns:
        The files written, relative to `folder`.

    Raises:
        InputError: the name is malformed or taken, there is no such kind, or the directory is in use.
        RunError: the directory cannot be written.
    """
    chosen = _kinds(kinds)
    _check_name(name, chosen)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists and is not empty. Choose another --out.")
    words = _words(name, chosen)
    written = []
    try:
        for source, target in _templates(resources.files(__package__) / "template", Path()):
            if not _wanted(target, chosen):
                continue
            path = Path(_fill(str(target), words))
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(_fill(source.read_text("utf-8"), words), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}. Choose another --out.") from error
    return sorted(written)


def usage(name: str, kinds: Sequence[str] = DEFAULT) -> list[str]:
    """Commands that use what a scaffolded plugin provides."""
    return [command.replace("@NAME@", name) for kind in _kinds(kinds) for command in USE[kind.key]]


def _kinds(keys: Sequence[str]) -> list[Kind]:
    known = [kind.key for kind in KINDS]
    for key in keys:
        if key not in known:
            raise InputError(
                f"There is no kind of plugin {key!r}.{did_you_mean(key, known)} Kinds: {', '.join(known)}."
            )
    return [kind for kind in KINDS if kind.key in keys]


def _check_name(name: str, kinds: Sequence[Kind]) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a plugin name: use lower-case words and hyphens, such as my-noise.")
    if keyword.iskeyword(name):
        raise InputError(f"{name!r} is a word of the Python language. Choose another name.")
    for kind in kinds:
        registry = load_plugins().registry[kind.key]
        if name in registry:
            entry = registry.entry(name)
            raise InputError(
                f"{registry.kind} {name!r} is already provided by {entry.distribution} {entry.version}. "
                "Choose another name."
            )


def _words(name: str, kinds: Sequence[Kind]) -> dict[str, str]:
    from bd3cli.version import __version__

    major, minor = __version__.split(".")[:2]
    hooks = "\n".join(HOOK.format(hook=kind.hook, key=kind.key, suffix=kind.key.capitalize()) for kind in kinds)
    what = _listed([f"a {kind.noun}" for kind in kinds])
    # The first ones hold others, and are filled in first.
    return {
        "@HOOKS@": hooks,
        "@USE@": "\n".join(f"    {command}" for command in usage("@NAME@", [kind.key for kind in kinds])),
        "@FILES@": _listed([f"`@PACKAGE@/{kind.key}.py`" for kind in kinds]),
        "@WHAT@": what[0].upper() + what[1:],
        "@NAME@": name,
        "@DISTRIBUTION@": f"bd3cli-{name}",
        "@PACKAGE@": f"bd3cli_{name.replace('-', '_')}",
        "@CLASS@": "".join(word.capitalize() for word in name.split("-")),
        "@BD3CLI@": f"{major}.{minor}",
    }


def _listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def _wanted(path: Path, kinds: Sequence[Kind]) -> bool:
    """Whether a template is for one of the kinds, or for all."""
    about = path.stem.removeprefix("test_")
    return about not in {kind.key for kind in KINDS} or about in {kind.key for kind in kinds}


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
