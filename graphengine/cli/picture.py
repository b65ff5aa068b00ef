"""`graphengine show` and `graphengine verify`: what made a picture, and whether it still does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from graphengine.cli import options
from graphengine.cli.console import line, out, say, table_of
from graphengine.errors import AssetError
from graphengine.workflow import Link, Workflow

Picture = Annotated[Path, typer.Argument(help="A PNG that GraphEngine has saved.")]


def register(app: typer.Typer) -> None:
    app.command()(show)
    app.command()(verify)


def show(
    picture: Picture, as_json: Annotated[bool, typer.Option("--json", help="Print the recipe itself.")] = False
) -> None:
    """Show the recipe that a picture carries.  `graphengine run PICTURE` makes it again."""
    from graphengine.pictures import read_recipe

    recipe = read_recipe(picture)
    if as_json:
        line(recipe)
        return
    workflow = Workflow.load(recipe["workflow"])
    out.print(f"[bold]{escape(workflow.name)}[/] {escape(workflow.description)}\n")
    table = table_of("node", "type", "inputs")
    for name, spec in workflow.nodes.items():
        values = ", ".join(f"{k}={_short(v)}" for k, v in spec.inputs.items() if not isinstance(v, Link))
        table.add_row(escape(name), spec.type, escape(values))
    out.print(table)
    facts = {"made on": recipe.get("numerics"), "with": recipe.get("packages"), "from": recipe.get("outside")}
    for title, values in facts.items():
        told = ", ".join(f"{k} {_short(v)}" for k, v in (values or {}).items())
        out.print(f"\n{title}: {escape(told)}")
    for node, notes in recipe.get("notes", {}).items():
        for note in notes:
            out.print(f"\n[yellow]note[/] {escape(node)}: {escape(note)}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def verify(
    picture: Picture,
    input_folder: options.InputFolder = None,
    device: options.Device = None,
    plugins: options.PluginFolder = None,
) -> None:
    """Make a picture again from its recipe, without the cache, and say whether it is the same or what differs.

    Exit code 0 when it is the same bit for bit, 1 when it differs, 2 when it could not be made.
    """
    from graphengine.compose import Engine
    from graphengine.pictures import open_picture, read_recipe

    recipe = read_recipe(picture)
    workflow, target = _source(recipe)
    settings = options.settings(None, input_folder, device, None, None, plugins)
    with Engine(settings=settings, cached=False) as engine:
        graph, keys = engine.prepare(workflow)
        now = {graph.tasks[p].id: json.loads(facts) for p, facts in keys.outside.items()}
        changes = list(_changes(recipe, now, engine.settings.numerics()))
        values = engine.submit(workflow, targets=[target]).result()
    made = _images(values[target])
    stored = open_picture(picture, settings.pixel_limit)
    worst = min((_difference(pixels, stored) for pixels in made), default=None)
    for change in changes:
        say(change)
    if worst == 0:
        out.print("same: the recipe makes this picture, bit for bit.")
        return
    if worst is None or worst > 255:
        out.print("different: the recipe makes a picture of another size.")
    else:
        out.print(f"different: the recipe makes a picture that is off by up to {worst:.0f} of 255.")
    if not changes:
        out.print("Models, packages, device and inputs are what the recipe names, so the picture itself was changed.")
    raise typer.Exit(1)


def _source(recipe: dict[str, Any]) -> tuple[Workflow, str]:
    """The workflow with the picture as its only output."""
    workflow = Workflow.load(recipe["workflow"])
    saved = workflow.nodes.get(str(recipe.get("node", "")))
    link = saved.inputs.get("image") if saved else None
    if not isinstance(link, Link):
        link = next(iter(workflow.outputs.values()), None)
    if link is None:
        raise AssetError("the recipe does not say which node's picture this is.")
    return replace(workflow, outputs={"picture": link}), "picture"


def _images(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    return [pixels for image in values for pixels in getattr(image, "pixels", ())]


def _difference(made: Any, stored: Any) -> float:
    """Largest difference of 8-bit levels; 256 when the sizes differ."""
    import numpy as np

    if made.shape[:2] != stored.shape[:2]:
        return 256.0
    levels = [np.round(p[..., :3] * 255) for p in (made, stored)]
    return float(np.abs(levels[0] - levels[1]).max())


def _changes(recipe: dict[str, Any], outside: dict[str, Any], numerics: dict[str, str]) -> list[str]:
    """What is not as the recipe says, in sentences."""
    from graphengine.settings import package_versions

    told = []
    for title, before, now in (
        ("package", recipe.get("packages", {}), package_versions()),
        ("setting", recipe.get("numerics", {}), numerics),
    ):
        told += [f"{title} {k}: was {v}, is {now.get(k)}." for k, v in before.items() if now.get(k) != v]
    for node, facts in recipe.get("outside", {}).items():
        for key, before in facts.items():
            now = outside.get(node, {}).get(key)
            if key == "digest" and now != before:
                told.append(f"{node}: the file or model it loads has changed (digest {before} is now {now}).")
    return told
