"""Find, load and isolate plugins; a broken one is reported and never takes the command line down."""

from __future__ import annotations

import importlib.metadata as metadata
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import pluggy

from bd3cli import hookspecs
from bd3cli.errors import InputError
from bd3cli.registry import Entry, Registry

if TYPE_CHECKING:
    from bd3cli.maskings import Masking
    from bd3cli.schedules import NoiseSchedule
    from bd3cli.weights import LossWeight

DISABLE_VARIABLE = "BD3CLI_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginRecord:
    """What one entry point brought, or why it did not."""

    distribution: str
    version: str
    entry_point: str
    provides: tuple[str, ...]
    error: str | None


@dataclass(frozen=True)
class Plugins:
    """The registries after discovery, and one record for each plugin."""

    schedules: Registry[NoiseSchedule] = field(
        default_factory=lambda: Registry("noise schedule", "bd3cli.schedules:NoiseSchedule")
    )
    weights: Registry[LossWeight] = field(default_factory=lambda: Registry("loss weight", "bd3cli.weights:LossWeight"))
    maskings: Registry[Masking] = field(default_factory=lambda: Registry("masking", "bd3cli.maskings:Masking"))
    records: list[PluginRecord] = field(default_factory=list)

    def registries(self) -> dict[str, Registry[Any]]:
        """Hook name -> the registry it fills."""
        return {
            "register_noise_schedules": self.schedules,
            "register_loss_weights": self.weights,
            "register_maskings": self.maskings,
        }

    def errors(self) -> list[PluginRecord]:
        return [record for record in self.records if record.error]


@cache
def load_plugins() -> Plugins:
    """Discover every plugin once: the built-in ones first, then entry points of the group ``bd3cli``."""
    plugins = Plugins()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    from bd3cli import builtin

    manager.register(builtin, name="bd3cli")
    _collect(manager, plugins, builtin, "bd3cli", metadata_version("bd3cli"), "bd3cli")
    for entry_point in _entry_points():
        _load(manager, plugins, entry_point)
    return plugins


def require_plugins_ok() -> None:
    """Refuse to go on when any plugin failed to load (``--strict-plugins``)."""
    broken = load_plugins().errors()
    if broken:
        first = broken[0]
        raise InputError(
            f"{len(broken)} plugin(s) failed to load and --strict-plugins is given; the first is "
            f"{first.distribution} {first.version}: {first.error} See `bd3cli plugins list`."
        )


def metadata_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _disabled(distribution: str) -> bool:
    value = os.environ.get(DISABLE_VARIABLE, "")
    names = {_normalise(name) for name in value.split(",")}
    return value.strip() in ("1", "all", "true") or _normalise(distribution) in names


def _normalise(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _entry_points() -> Iterator[metadata.EntryPoint]:
    """Entry points in a fixed order (distribution, name), so that collisions resolve the same way everywhere."""
    points = metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP)
    yield from sorted(points, key=lambda p: (_normalise(_owner(p)[0]), p.name))


def _owner(point: metadata.EntryPoint) -> tuple[str, str]:
    distribution = point.dist
    return (distribution.name, distribution.version) if distribution else ("unknown", "unknown")


def _load(manager: pluggy.PluginManager, plugins: Plugins, point: metadata.EntryPoint) -> None:
    distribution, version = _owner(point)
    if _disabled(distribution):
        return

    # The distribution is part of the name: two of them may well call their entry point "main".
    name = f"{distribution}:{point.name}"
    plugin: Any = None
    try:
        plugin = point.load()
        manager.register(plugin, name=name)
        manager.check_pending()  # a misspelt hook
    except BaseException as error:  # a plugin may even call sys.exit() on import
        if isinstance(error, KeyboardInterrupt):
            raise
        if plugin is not None and manager.get_plugin(name) is plugin:
            manager.unregister(plugin, name)
        text = f"{type(error).__name__}: {error}"
        plugins.records.append(PluginRecord(distribution, version, point.name, (), text))
        return
    _collect(manager, plugins, plugin, distribution, version, point.name)


def _collect(
    manager: pluggy.PluginManager, plugins: Plugins, plugin: object, distribution: str, version: str, name: str
) -> None:
    """Call each hook of one plugin alone, so that an exception stops that plugin only."""
    others = [other for other in manager.get_plugins() if other is not plugin]
    provides: list[str] = []
    problems: list[str] = []
    for hook, registry in plugins.registries().items():
        found: list[tuple[str, Any]] = []
        try:
            caller = manager.subset_hook_caller(hook, remove_plugins=others)
            caller(register=lambda item, target, found=found: found.append((item, target)))
        except Exception as error:
            problems.append(f"{hook} raised {type(error).__name__}: {error}")
            continue
        for item, target in found:
            try:
                registry.add(Entry(item, target, distribution, version))
                provides.append(item)
            except InputError as error:
                problems.append(str(error))
    if not provides and not problems:
        problems.append("it registers nothing. Implement one of the hooks of bd3cli.hookspecs with @hookimpl.")
    error_text = " ".join(problems) or None
    plugins.records.append(PluginRecord(distribution, version, name, tuple(provides), error_text))
