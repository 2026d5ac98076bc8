"""What must hold in a fresh environment with real installs: run by ``nox -s plugins``.

Expects this environment to hold bd3cli's built wheel, every ``plugins/*``, a scaffolded ``bd3cli-scaffolded``
and every ``tests/broken_plugins/*``; works in the empty directory given as its only argument.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = {
    "bd3cli-gaussian": {"gaussian", "bimodal-gaussian"},
    "bd3cli-reweighting": {"edm", "iddpm", "sigmoid", "fm", "simple"},
    "bd3cli-frequency": {"frequency"},
    "bd3cli-scaffolded": {"scaffolded"},
}
BROKEN = {
    "bd3cli-broken-import": "No module named 'a_module_nobody_has'",
    "bd3cli-broken-hook": "Did you mean 'register_noise_schedules'?",
    "bd3cli-broken-name": "'loglinear' is already provided by bd3cli",
}
TRAININGS = (
    ("--schedule", "gaussian:mu=0.6", "--weight", "sigmoid:k=0"),
    ("--schedule", "bimodal-gaussian:mu2_start=0.4", "--clip", "0.3,0.8", "--weight", "simple"),
    ("--schedule", "scaffolded", "--weight", "scaffolded"),
    ("--masking", "frequency:strength=0.2"),
)
SMALL = ("train.steps=4", "train.batch_size=4", "train.validate_sequences=8", "model.hidden_size=32", "model.heads=2",
         "model.blocks=1", "model.cond_dim=8", "model.length=32")  # fmt: skip


def bd3cli(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command line; its exit code must be `code`, and no traceback may appear."""
    command = [sys.executable, "-m", "bd3cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def passed(what: str) -> None:
    print(f"ok: {what}", flush=True)


def check_installed() -> None:
    """The wheel is what runs, not the working tree."""
    import bd3cli as package

    assert REPOSITORY not in Path(package.__file__).parents or "site-packages" in package.__file__, package.__file__
    passed(f"bd3cli imported from {Path(package.__file__).parent}")


def check_list() -> None:
    """`plugins list --json` shows what works and what does not."""
    plugins: dict[str, Any] = {
        p["distribution"]: p for p in json.loads(bd3cli("plugins", "list", "--json").stdout)["plugins"]
    }
    assert set(plugins) == {"bd3cli", *SHIPPED, *BROKEN}, sorted(plugins)
    for name, provides in SHIPPED.items():
        assert plugins[name]["error"] is None, plugins[name]
        assert set(plugins[name]["provides"]) == provides, plugins[name]
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?", plugins[name]["version"])
    for name, message in BROKEN.items():
        assert message in plugins[name]["error"], plugins[name]
    assert plugins["bd3cli-broken-name"]["provides"] == ["another-linear"]
    passed(f"plugins list: {len(SHIPPED)} work, {len(BROKEN)} broken ones reported")


def check_switches() -> None:
    strict = bd3cli("schedules", "list", "--strict-plugins", code=2)
    assert "3 plugin(s) failed to load" in strict.stderr
    disabled = bd3cli("schedules", "show", "gaussian", code=2, BD3CLI_DISABLE_PLUGINS="1")
    assert "no noise schedule 'gaussian'" in disabled.stderr
    passed("--strict-plugins and BD3CLI_DISABLE_PLUGINS")


def check_laws() -> None:
    bd3cli("schedules", "check", "gaussian", "bimodal-gaussian", "scaffolded", "another-linear")
    bd3cli("weights", "check", "edm", "iddpm", "sigmoid", "fm", "simple", "scaffolded")
    bd3cli("maskings", "check", "bernoulli", "count", "frequency")
    passed("every law of every shipped schedule, weight and masking")


def check_training() -> None:
    """Training works with broken plugins around, and records which distribution provided what."""
    for index, options in enumerate(TRAININGS):
        sets = [part for value in SMALL for part in ("--set", value)]
        bd3cli("train", "--out", f"run-{index}", "--json", *options, *sets)
        used = json.loads(Path(f"run-{index}", "run.json").read_text())["uses"]
        print(f"    {' '.join(options)}: {used}")
        kind = "masking" if "--masking" in options else "schedule"
        name = options[1].split(":")[0]
        assert used[kind]["name"] == name
        assert name in SHIPPED[used[kind]["distribution"]], used
    passed("train with every kind of plugin")


def check_missing_plugin() -> None:
    """A run whose plugin is gone says which package to install."""
    done = bd3cli("train", "--out", "run-0", "--resume", "--json", code=2, BD3CLI_DISABLE_PLUGINS="bd3cli-gaussian")
    assert "bd3cli-gaussian" in done.stderr, done.stderr
    passed(f"resume without the plugin: {done.stderr.strip()}")


def run_plugin_tests(scaffolded: Path) -> None:
    """Every plugin's own tests, against the installed packages."""
    for folder in [*sorted((REPOSITORY / "plugins").iterdir()), scaffolded]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests")]
        subprocess.run(command, check=True)
        passed(f"tests of {folder.name}")


def main(folder: Path) -> None:
    os.chdir(folder)  # away from the source, which would otherwise be imported in place of the wheel
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    check_installed()
    check_list()
    check_switches()
    check_laws()
    check_training()
    check_missing_plugin()
    run_plugin_tests(folder / "bd3cli-scaffolded")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
