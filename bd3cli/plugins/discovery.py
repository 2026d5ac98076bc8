"""Find, load and isolate plugins; a broken one is reported and never takes the command line down."""

from __future__ import annotations

import dataclasses
import importlib.metadata as metadata
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pluggy

from bd3cli import hookspecs
from bd3cli.errors import InputError, did_you_mean
from bd3cli.faults import Owner, describe, package_of, where
from bd3cli.plugins.kinds import KINDS, Kind
from bd3cli.plugins.registry import NAME, NAME_OF_DATA, Entry, Registry

DISABLE_VARIABLE = "BD3CLI_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginRecord:
    """What one entry point brought, or why it did not.

    Attributes:
        provides: names of everything it registered.
        hooks: the hooks it implements.
        error: what went wrong, None if nothing did.
    """

    distribution: str
    version: str
    entry_point: str
    provides: tuple[str, ...]
    error: str | None
    hooks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plugins:
    """The registries after discovery, and one record for each plugin.

    The base classes are named, not imported: they live above this module, with the functions that give an
    instance its type (`bd3cli.schedules.get_schedule` and its like).

    Attributes:
        registry: key of a kind (`bd3cli.plugins.kinds`) -> the names of that kind.
    """

    registry: dict[str, Registry[Any]] = field(default_factory=lambda: {kind.key: _registry(kind) for kind in KINDS})
    records: list[PluginRecord] = field(default_factory=list)
    modules: dict[str, Owner] = field(default_factory=dict)

    @property
    def schedules(self) -> Registry[Any]:
        return self.registry["schedule"]

    @property
    def weights(self) -> Registry[Any]:
        return self.registry["weight"]

    @property
    def maskings(self) -> Registry[Any]:
        return self.registry["masking"]

    def registries(self) -> dict[str, Registry[Any]]:
        """Hook name -> the registry it fills."""
        return {kind.hook: self.registry[kind.key] for kind in KINDS}

    def packages(self) -> dict[str, Owner]:
        """Packages that are plugins' code, and whose; the ones that ship with bd3cli are not among them."""
        found = {package_of(module): owner for module, owner in self.modules.items()}
        for registry in self.registries().values():
            for entry in registry.entries():
                if entry.distribution != "bd3cli":
                    target = entry.target
                    module = target.split(":")[0] if isinstance(target, str) else target.__module__
                    found.setdefault(package_of(module), Owner(entry.distribution, entry.version))
        return found

    def errors(self) -> list[PluginRecord]:
        """The records of plugins that did not load completely."""
        return [record for record in self.records if record.error]

    def imported(self) -> list[PluginRecord]:
        """The records once every class has been imported, which discovery alone leaves for first use."""
        return [_imported(record, self.registries().values()) for record in self.records]


def _registry(kind: Kind) -> Registry[Any]:
    return Registry(kind.noun, kind.base, kind.record, NAME_OF_DATA if kind.underscores else NAME)


@cache
def load_plugins() -> Plugins:
    """Discover every plugin once: the built-in ones first, then entry points of the group ``bd3cli``."""
    from bd3cli.plugins import builtin

    plugins = Plugins()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(builtin, name="bd3cli")
    _collect(manager, plugins, builtin, "bd3cli", metadata_version("bd3cli"), "bd3cli")
    for distribution, version, entry_point in _entry_points():
        if not _disabled(distribution):
            plugins.modules[entry_point.module] = Owner(distribution, version)
            _load(manager, plugins, entry_point, distribution, version)
    return plugins


def require_plugins_ok() -> None:
    """Refuse to go on when any plugin failed to load (``--strict-plugins``).

    Raises:
        InputError: naming the first broken plugin.
    """
    broken = [record for record in load_plugins().imported() if record.error]
    if broken:
        first = broken[0]
        raise InputError(
            f"{len(broken)} plugin(s) failed to load and --strict-plugins is given; the first is "
            f"{first.distribution} {first.version}: {first.error} See `bd3cli plugins list`."
        )


def registered(specs: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Which distribution and version provide what is asked for, as a run records it.

    Args:
        specs: kind -> a name, or a name with parameters; those of data and tokenizers may be files or names of
            elsewhere, which no plugin provides and which are left out.
    """
    found = {}
    for kind, spec in specs.items():
        registry, name = load_plugins().registry[kind], spec.partition(":")[0].strip()
        if name in registry:
            entry = registry.entry(name)
            found[kind] = {"name": entry.name, "distribution": entry.distribution, "version": entry.version}
    return found


def require_used(uses: Mapping[str, Mapping[str, str]], where: str, kinds: Collection[str] | None = None) -> None:
    """Refuse a run whose plugins are not installed.

    Args:
        uses: kind (a key of `bd3cli.plugins.kinds`) -> its ``name``, ``distribution`` and ``version``, as a run
            records them.
        where: what asks for them, for the message.
        kinds: those that are needed; None for all.

    Raises:
        InputError: naming the package to install.
    """
    plugins = load_plugins()
    for kind, used in uses.items():
        if used["name"] in plugins.registry.get(kind, ()) or (kinds is not None and kind not in kinds):
            continue
        distribution, version = used["distribution"], used["version"]
        record = next((r for r in plugins.records if _normalise(r.distribution) == _normalise(distribution)), None)
        if _disabled(distribution):
            remedy = f"It is disabled by {DISABLE_VARIABLE}: unset that variable."
        elif record is not None and record.error:
            remedy = f"It is installed but does not load: {record.error}"
        else:
            remedy = f"Install it with: python -m pip install '{distribution}=={version}'"
        what = "data set" if kind == "dataset" else kind
        raise InputError(
            f"{where} uses the {what} {used['name']!r} of {distribution} {version}, which is not available. {remedy}"
        )


def metadata_version(distribution: str) -> str:
    """The installed version of a distribution, ``unknown`` if it is not installed."""
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


def _entry_points() -> list[tuple[str, str, metadata.EntryPoint]]:
    """Distribution, version and entry point, in a fixed order, so that collisions resolve the same way everywhere."""
    points = metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP)
    found = [(p.dist.name, p.dist.version or "unknown", p) for p in points if p.dist is not None]
    return sorted(found, key=lambda item: (_normalise(item[0]), item[2].name))


def _load(
    manager: pluggy.PluginManager, plugins: Plugins, point: metadata.EntryPoint, distribution: str, version: str
) -> None:
    # The distribution is part of the name: two of them may well call their entry point "main".
    name = f"{distribution}:{point.name}"
    plugin: Any = None
    try:
        plugin = point.load()
        manager.register(plugin, name=name)
        manager.check_pending()  # a misspelt hook
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit() on import
        if plugin is not None and manager.get_plugin(name) is plugin:
            manager.unregister(plugin, name)
        text = _explain(error, plugin, point.module)
        plugins.records.append(PluginRecord(distribution, version, point.name, (), text))
        return
    _collect(manager, plugins, plugin, distribution, version, point.name)


def _explain(error: BaseException, plugin: object, module: str) -> str:
    """One sentence on why a plugin could not be loaded."""
    if not isinstance(error, pluggy.PluginValidationError):
        return f"cannot be imported: {describe(error)}{where(error, module)}"
    known = [name for name in vars(hookspecs) if name.startswith("register_")]
    wrong = [
        name
        for name in dir(plugin)
        if name not in known and getattr(getattr(plugin, name), f"{hookspecs.PROJECT}_impl", None)
    ]
    if not wrong:
        return " ".join(str(error).split())
    return f"{wrong[0]!r} is not a hook.{did_you_mean(wrong[0], known)} The hooks are {', '.join(known)}."


def _collect(
    manager: pluggy.PluginManager, plugins: Plugins, plugin: object, distribution: str, version: str, name: str
) -> None:
    """Call each hook of one plugin alone, so that an exception stops that plugin only."""
    others = [other for other in manager.get_plugins() if other is not plugin]
    provides: list[str] = []
    problems: list[str] = []
    implemented: list[str] = []
    for hook, registry in plugins.registries().items():
        found: list[tuple[str, Any]] = []
        caller = manager.subset_hook_caller(hook, remove_plugins=others)
        if not caller.get_hookimpls():
            continue
        implemented.append(hook)
        try:
            caller(register=lambda item, target, found=found: found.append((item, target)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problems.append(f"{hook} raised {describe(error)}{where(error, _module(caller))}.")
            continue
        for item, target in found:
            try:
                registry.add(Entry(item, target, distribution, version))
                provides.append(item)
            except InputError as error:
                problems.append(str(error))
    if not provides and not problems:
        problems.append("it registers nothing. Implement one of the hooks of bd3cli.hookspecs with @hookimpl.")
    plugins.records.append(
        PluginRecord(distribution, version, name, tuple(provides), " ".join(problems) or None, tuple(implemented))
    )


def _module(caller: pluggy.HookCaller) -> str:
    """Where the function behind a hook of one plugin is."""
    return str(caller.get_hookimpls()[0].function.__module__)


def _imported(record: PluginRecord, registries: Any) -> PluginRecord:
    """`record`, with the error of the first class of it that cannot be imported."""
    for registry in registries:
        for entry in registry.entries():
            if (entry.distribution, entry.version) != (record.distribution, record.version):
                continue
            if entry.name not in record.provides:
                continue
            try:
                registry.find(entry.name)
            except InputError as error:
                if str(error) not in (record.error or ""):
                    text = f"{record.error} {error}" if record.error else str(error)
                    record = dataclasses.replace(record, error=text)
    return record
