"""`graphengine gallery`: the pictures of every system of an introduction to diffusion, and what is measured about them."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from graphengine.cli.console import fail, out, say
from graphengine.errors import Problem


def register(app: typer.Typer) -> None:
    app.command()(gallery)


def gallery(
    names: Annotated[list[str] | None, typer.Argument(help="Which workflows; all of them when none is named.")] = None,
    folder: Annotated[
        Path, typer.Option(help="Where README.md and the pictures go, and the figures that are known so far.")
    ] = Path("workflows"),
    cases: Annotated[int, typer.Option(min=2, max=1000, help="Over how many cases each figure is measured.")] = 50,
    figures: Annotated[
        bool, typer.Option(help="Measure the figures as well; the pictures alone take a few minutes.")
    ] = True,
) -> None:
    """Draw every picture of the gallery anew, measure its figures, and write the page that shows them.

    Stop it at any time: what was drawn and measured is kept, and the same command takes up nothing twice that is in the
    cache.
    """
    from graphengine.gallery import page
    from graphengine.gallery.draw import draw
    from graphengine.gallery.figures import Figure, measure
    from graphengine.settings import Settings

    try:
        exhibits = page.known(names or [])
    except ValueError as error:
        raise typer.Exit(fail(Problem("unknown_exhibit", str(error)))) from None
    try:  # before anything is drawn: the pictures take minutes
        measures = {exhibit.workflow: measure(exhibit.figures) for exhibit in exhibits if figures and exhibit.figures}
    except ValueError as error:
        raise typer.Exit(fail(Problem("unknown_figures", str(error)))) from None
    settings = Settings.load()
    kept = folder / "pictures" / "figures.json"
    known = {} if not kept.is_file() else json.loads(kept.read_text(encoding="utf-8"))
    for number, exhibit in enumerate(exhibits, 1):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as output:
            draw(exhibit, folder, settings.model_copy(update={"output_folder": Path(output)}))
            if exhibit.workflow in measures:
                found = measures[exhibit.workflow](settings.model_copy(update={"output_folder": Path(output)}), cases)
                known[exhibit.workflow] = [vars(figure) for figure in found]
                kept.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        say(f"{number}/{len(exhibits)} {exhibit.workflow}: {time.monotonic() - began:.0f} s")
    told = {name: [Figure(**figure) for figure in found] for name, found in known.items()}
    path = page.write(folder, page.known([]), told)
    print(page.table(page.known([]), told), file=sys.stdout)
    out.print(path, markup=False)
