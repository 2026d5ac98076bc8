"""Sphinx configuration. The command and settings pages are written from the code at build time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer
from typer.testing import CliRunner

from bd3cli.version import __version__

project = "bd3cli"
copyright = "the bd3cli developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
html_theme = "furo"
html_title = f"bd3cli {version}"
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # links to sections: page.md#heading
myst_enable_extensions = ["dollarmath", "colon_fence"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"


def command_names(app: typer.Typer, before: str = "") -> Iterator[str]:
    """Every command of the application, groups and what is in them last."""
    for command in app.registered_commands:
        yield f"{before}{command.name or command.callback.__name__}"
    for group in app.registered_groups:
        yield from command_names(group.typer_instance, f"{before}{group.name} ")


def write_commands(folder: Path) -> None:
    """One section a command, from its own ``--help``."""
    from bd3cli.cli.main import app

    runner = CliRunner()
    parts = ["# Commands\n"]
    for command in command_names(app):
        result = runner.invoke(app, [*command.split(), "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
        assert result.exit_code == 0, (command, result.output)
        parts.append(f"## `bd3cli {command}`\n\n```text\n{result.output.strip()}\n```\n")
    (folder / "commands.md").write_text("\n".join(parts), encoding="utf-8")


def write_settings(folder: Path) -> None:
    """Every recipe key with its default and meaning."""
    from bd3cli.recipes.resolve import known_keys

    rows = [
        f"| `{k.name}` | `{k.default}` | {'yes' if k.facts.resumable else ''} | {k.facts.help} |"
        for k in known_keys().values()
    ]
    text = (
        "# Settings\n\nEvery key a recipe may set, and whether a resumed run may have another value.\n\n"
        "| key | default | resumed | meaning |\n|---|---|---|---|\n" + "\n".join(rows)
    )
    (folder / "settings.md").write_text(text + "\n", encoding="utf-8")


def generate(app: object) -> None:
    folder = Path(__file__).parent / "generated"
    folder.mkdir(exist_ok=True)
    write_commands(folder)
    write_settings(folder)


def setup(app) -> None:  # type: ignore[no-untyped-def]
    app.connect("builder-inited", generate)
