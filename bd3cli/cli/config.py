"""`bd3cli config`."""

from __future__ import annotations

from typing import Annotated

import typer

from bd3cli.cli import recipe_options as o
from bd3cli.cli.common import JsonFlag, emit_json
from bd3cli.cli.view.tables import print_table

app = typer.Typer(help="Recipes: the resolved values and where each came from.", no_args_is_help=True)


@app.command()
def show(
    recipe: o.RecipeArgument = None,
    set_: o.Set = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print a complete recipe file instead.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Add what each key means.")] = False,
    json: JsonFlag = False,
) -> None:
    """Every value of a recipe, and whether it is a default or came from the recipe, the environment or --set."""
    from bd3cli.recipes.resolve import known_keys, resolve, to_toml

    resolved = resolve(recipe, overrides=set_ or [])
    if toml and not json:
        print(to_toml(resolved.recipe), end="")
        return
    values = resolved.values()
    if json:
        emit_json({"values": values, "sources": resolved.sources})
        return
    known = known_keys()
    rows = [
        (key, "none" if value is None else value, resolved.sources[key], *([known[key].facts.help] if explain else []))
        for key, value in values.items()
    ]
    print_table(("key", "value", "from", *(["meaning"] if explain else [])), rows)


@app.command()
def validate(recipe: o.RecipeArgument = None, set_: o.Set = None, json: JsonFlag = False) -> None:
    """Check a recipe as far as that is possible without reading its data."""
    from bd3cli.attention import choose_backend
    from bd3cli.device import choose_device
    from bd3cli.diffusion.objective import Objective
    from bd3cli.recipes.resolve import resolve

    resolved = resolve(recipe, overrides=set_ or [])
    r = resolved.recipe
    Objective.build(r.objective, mask_id=0, block_size=r.block_size)
    import torch

    choose_backend(r.train.attention, choose_device(r.train.device), torch.float32)
    if json:
        emit_json({"ok": True, "name": r.name})
    else:
        print(f"{r.name}: valid")


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """The shipped recipes."""
    from bd3cli.recipes.resolve import resolve, shipped_recipes

    rows = [(name, resolve(name, environment={}).recipe.description) for name in shipped_recipes()]
    if json:
        emit_json({"recipes": [{"name": name, "description": text} for name, text in rows]})
        return
    print_table(("recipe", "description"), rows)
