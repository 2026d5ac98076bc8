"""What must hold in a fresh environment with real installs: run by ``nox -s plugins``.

Expects this environment to hold bd3cli's built wheel, every ``plugins/*`` and ``tests/example_plugins/*``, a scaffolded
``bd3cli-scaffolded`` and one of each kind, such as ``bd3cli-scaffolded-sampler``, and every ``tests/broken_plugins/*``;
works in the directory given as its only argument, which holds nothing but the scaffolded ones.
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
    "bd3cli-example-sampler": {"left-to-right"},
    "bd3cli-example-dataset": {"squares"},
    "bd3cli-example-tokenizer": {"lower-case"},
    "bd3cli-scaffolded": {"scaffolded"},
}
KINDS = ("schedule", "weight", "masking", "sampler", "dataset", "tokenizer")
SHIPPED |= {f"bd3cli-scaffolded-{kind}": {f"scaffolded-{kind}"} for kind in KINDS}
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
    ("--data", "squares:count=500", "--tokenizer", "lower-case"),
    ("--data", "scaffolded-dataset:count=500", "--tokenizer", "scaffolded-tokenizer"),
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
        for option, value in zip(options[::2], options[1::2], strict=True):
            kind, name = {"--data": "dataset"}.get(option, option.removeprefix("--")), value.split(":")[0]
            if kind in KINDS:
                assert used[kind]["name"] == name
                assert name in SHIPPED[used[kind]["distribution"]], used
    passed("train with every kind of plugin")


def check_data() -> None:
    """`data` knows the data sets of plugins, with their parameters."""
    listed = {entry["name"] for entry in json.loads(bd3cli("data", "list", "--json").stdout)["datasets"]}
    assert {"pydocs", "squares", "scaffolded-dataset"} <= listed, listed
    shown = json.loads(bd3cli("data", "show", "squares:count=200", "--json").stdout)
    assert shown["documents"][2] == "2 times 2 makes 4.", shown
    bd3cli("data", "prepare", "scaffolded-dataset", "--tokenizer", "lower-case", "--length", "16")
    passed("data list, show and prepare with data sets and tokenizers of plugins")


def check_sampling() -> None:
    """`sample` and `eval` on a run trained with a plugin's data set and tokenizer, under plugins' samplers."""
    run = f"run-{next(i for i, options in enumerate(TRAININGS) if 'squares:count=500' in options)}"
    for sampler in ("left-to-right:together=4", "scaffolded-sampler:together=4"):
        made = json.loads(bd3cli("sample", run, "--sampler", sampler, "--length", "16", "--json").stdout)
        assert made["nfe"] == 4, made  # four blocks of four tokens, an evaluation each
    assert json.loads(bd3cli("eval", run, "--json").stdout)["data"]["dataset"] == "squares:count=500"
    for gone, command in (("tokenizer", ("sample", run)), ("dataset", ("eval", run))):
        done = bd3cli(*command, code=2, BD3CLI_DISABLE_PLUGINS=f"bd3cli-example-{gone}")
        assert f"of bd3cli-example-{gone} 0.1, which is not available" in done.stderr, done.stderr
    passed("sample and eval with a sampler, data set and tokenizer of plugins")


def check_missing_plugin() -> None:
    """A run whose plugin is gone says which package to install."""
    done = bd3cli("train", "--out", "run-0", "--resume", "--json", code=2, BD3CLI_DISABLE_PLUGINS="bd3cli-gaussian")
    assert "bd3cli-gaussian" in done.stderr, done.stderr
    passed(f"resume without the plugin: {done.stderr.strip()}")


def run_plugin_tests(scaffolded: list[Path]) -> None:
    """Every plugin's own tests, against the installed packages."""
    for folder in [*sorted((REPOSITORY / "plugins").iterdir()), *scaffolded]:
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
    check_data()
    check_sampling()
    check_missing_plugin()
    run_plugin_tests([folder / "bd3cli-scaffolded", *(folder / f"bd3cli-scaffolded-{kind}" for kind in KINDS)])


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
