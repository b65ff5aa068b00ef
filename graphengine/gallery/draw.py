"""Drawing an exhibit: its workflow is run, and the pictures of its outputs are kept."""

from __future__ import annotations

import json
from pathlib import Path

from graphengine.compose import Engine, bundled_workflows
from graphengine.gallery.exhibits import Exhibit
from graphengine.gallery.page import picture
from graphengine.settings import Settings
from graphengine.values import Image

SMALLEST = 192
"""Pixels; smaller pictures are enlarged to be looked at."""


def draw(exhibit: Exhibit, folder: Path, settings: Settings) -> None:
    """Run a workflow of `folder` and keep its pictures there.

    Raises:
        GraphEngineError: it cannot be run.
    """
    document = json.loads((folder / f"{exhibit.workflow}.json").read_text(encoding="utf-8"))
    with Engine(settings=settings.model_copy(update={"input_folder": bundled_workflows().parent})) as engine:
        made = engine.submit(document, dict(exhibit.inputs)).result()
    for name in exhibit.outputs:
        image = made[name]
        assert isinstance(image, Image)
        place = picture(folder, exhibit, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shown = image.pil()[0].convert("RGB")
        if shown.width < SMALLEST:
            times = -(-SMALLEST // shown.width)
            shown = shown.resize((shown.width * times, shown.height * times))
        shown.save(place, optimize=True)
