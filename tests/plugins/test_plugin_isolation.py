"""Plugins are found, isolated and reported; nothing they do takes the command line down.

Installed plugins are imitated by what an installer leaves behind: a module, and a .dist-info directory.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bd3cli import hookspecs
from bd3cli.errors import InputError
from bd3cli.plugins import PluginRecord, load_plugins, require_plugins_ok, require_used
from bd3cli.schedules import get_schedule

BROKEN = Path(__file__).resolve().parents[1] / "broken_plugins"
HEADER = "from bd3cli import hookimpl\n"
MASKINGS = HEADER + "@hookimpl\ndef register_maskings(register):\n    "
GOOD = (
    HEADER
    + "from dataclasses import dataclass\nfrom bd3cli.schedules import NoiseSchedule\n"
    + "@dataclass(frozen=True)\nclass S(NoiseSchedule):\n    def mask_prob(self, t):\n        return t * t\n"
    + "@hookimpl\ndef register_noise_schedules(register):\n    register('{name}', S)\n"
)

Install = Callable[..., None]


def install_broken(install: Install, name: str) -> None:
    (source,) = (BROKEN / name).glob("*.py")
    install(name, source.stem, source.read_text(), version="0.3")


def record(distribution: str) -> PluginRecord:
    (found,) = [r for r in load_plugins().imported() if r.distribution == distribution]
    return found


def test_a_good_plugin_is_listed_and_usable(install: Install) -> None:
    install("bd3cli-fake", "fake_good", GOOD.format(name="fake-square"))
    assert record("bd3cli-fake") == PluginRecord(
        "bd3cli-fake", "1.2", "main", ("fake-square",), None, ("register_noise_schedules",)
    )
    assert load_plugins().schedules.entry("fake-square").distribution == "bd3cli-fake"
    get_schedule("fake-square")


def test_an_import_error_is_reported(install: Install) -> None:
    install_broken(install, "bd3cli-broken-import")
    broken = record("bd3cli-broken-import")
    assert (broken.version, broken.provides) == ("0.3", ())
    assert re.fullmatch(
        r"cannot be imported: ModuleNotFoundError: No module named 'a_module_nobody_has' "
        r"\(.*broken_import\.py, line 3, in <module>\)",
        str(broken.error),
    )


def test_a_misspelt_hook_is_reported_with_the_right_one(install: Install) -> None:
    install_broken(install, "bd3cli-broken-hook")
    error = record("bd3cli-broken-hook").error
    assert error is not None
    assert "'register_noise_schedule' is not a hook. Did you mean 'register_noise_schedules'?" in error
    with pytest.raises(InputError, match="no noise schedule 'never-seen'"):
        get_schedule("never-seen")


def test_a_taken_name_is_reported_and_the_first_owner_keeps_it(install: Install) -> None:
    install_broken(install, "bd3cli-broken-name")
    broken = record("bd3cli-broken-name")
    assert broken.provides == ("another-linear",)
    assert broken.error is not None
    assert re.search(r"'loglinear' is already provided by bd3cli \S+; bd3cli-broken-name 0.3 must", broken.error)
    assert type(get_schedule("loglinear")).__module__ == "bd3cli.schedules.builtin"


def test_broken_plugins_do_not_harm_the_others(install: Install) -> None:
    for name in ("bd3cli-broken-import", "bd3cli-broken-hook", "bd3cli-broken-name"):
        install_broken(install, name)
    install("bd3cli-zz-last", "fake_last", GOOD.format(name="fake-last"))
    assert record("bd3cli-zz-last").error is None
    get_schedule("fake-last")
    get_schedule("loglinear")
    assert len(load_plugins().errors()) == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = (", "SyntaxError"),
        (MASKINGS + "1 / 0\n", "register_maskings raised ZeroDivision"),
        (MASKINGS + "raise SystemExit\n", "raised SystemExit"),
        ("", "registers nothing"),
        (MASKINGS + "register('Bad Name', int)\n", "is not a name"),
        (MASKINGS + "register('fake', 3)\n", "must be a class or"),
        (MASKINGS + "register('fake', int)\n", "not a subclass of"),
        (MASKINGS + "register('fake', 'nowhere:X')\n", "No module named"),
        (HEADER + "@hookimpl\ndef register_maskings(other):\n    pass\n", "definition"),
        (MASKINGS + "register('fake', 'fake_bad:X')\n", "AttributeError"),
    ],
)  # fmt: skip
def test_every_way_to_fail_is_one_record(install: Install, source: str, message: str) -> None:
    install("bd3cli-fake", "fake_bad", source)
    error = record("bd3cli-fake").error
    assert error is not None
    assert message in error
    assert "\n" not in error
    get_schedule("loglinear")


def test_equal_entry_point_names_do_not_hide_each_other(install: Install) -> None:
    install("bd3cli-one", "fake_one", GOOD.format(name="fake-one"), entry_point="same")
    install("bd3cli-two", "fake_two", GOOD.format(name="fake-two"), entry_point="same")
    assert record("bd3cli-one").provides == ("fake-one",)
    assert record("bd3cli-two").provides == ("fake-two",)


def test_colliding_plugins_resolve_the_same_way_everywhere(install: Install) -> None:
    install("bd3cli-b", "fake_b", GOOD.format(name="fake"))
    install("bd3cli-a", "fake_a", GOOD.format(name="fake"))
    assert record("bd3cli-a").error is None
    assert record("bd3cli-b").provides == ()


def test_a_class_is_imported_on_first_use_only(install: Install) -> None:
    hook = "@hookimpl\ndef register_noise_schedules(register):\n    register('fake-lazy', 'fake_lazy_class:S')\n"
    install("bd3cli-fake", "fake_lazy", HEADER + hook)
    install("bd3cli-unrelated", "fake_lazy_class", GOOD.format(name="fake-other").replace("@hookimpl\n", ""))
    load_plugins()
    assert "fake_lazy" in sys.modules
    sys.modules.pop("fake_lazy_class", None)
    assert load_plugins().schedules.entry("fake-lazy").target == "fake_lazy_class:S"
    assert "fake_lazy_class" not in sys.modules
    get_schedule("fake-lazy")
    assert "fake_lazy_class" in sys.modules


@pytest.mark.parametrize("value", ["1", "all", "bd3cli-fake", "other, BD3CLI_Fake"])
def test_plugins_can_be_disabled(install: Install, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    install("bd3cli-fake", "fake_off", "raise RuntimeError('imported although disabled')")
    monkeypatch.setenv("BD3CLI_DISABLE_PLUGINS", value)
    assert "bd3cli-fake" not in {r.distribution for r in load_plugins().records}
    get_schedule("loglinear")


def test_strict_mode_refuses_broken_plugins(install: Install) -> None:
    require_plugins_ok()
    load_plugins.cache_clear()
    install_broken(install, "bd3cli-broken-import")
    with pytest.raises(InputError, match=r"bd3cli-broken-import 0.3: cannot be imported.*plugins list"):
        require_plugins_ok()


def used(distribution: str, name: str = "fake-square") -> dict[str, dict[str, str]]:
    return {"schedule": {"name": name, "distribution": distribution, "version": "1.2"}}


def test_a_run_whose_plugin_is_missing_says_what_to_install() -> None:
    with pytest.raises(InputError, match=r"python -m pip install 'bd3cli-fake==1.2'") as refusal:
        require_used(used("bd3cli-fake"), "runs/a")
    assert str(refusal.value).startswith("runs/a uses the schedule 'fake-square' of bd3cli-fake 1.2")


def test_a_run_whose_plugin_is_there_is_fine(install: Install) -> None:
    install("bd3cli-fake", "fake_good", GOOD.format(name="fake-square"))
    require_used(used("bd3cli-fake"), "runs/a")


def test_a_run_whose_plugin_is_broken_or_disabled_says_so(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("bd3cli-fake", "fake_bad", "import nothing_like_this")
    with pytest.raises(InputError, match="does not load: cannot be imported"):
        require_used(used("bd3cli-fake"), "runs/a")
    load_plugins.cache_clear()
    monkeypatch.setenv("BD3CLI_DISABLE_PLUGINS", "bd3cli-fake")
    with pytest.raises(InputError, match="disabled by BD3CLI_DISABLE_PLUGINS"):
        require_used(used("bd3cli-fake"), "runs/a")


def test_every_hook_has_a_registry() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert hooks == set(load_plugins().registries())
