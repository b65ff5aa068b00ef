"""What a run has made, as JSON: pictures become files by digest, plain values stay what they are.

    {"image": [{"digest": "...", "type": "image/png", "bytes": 5123, "width": 64, "height": 64}], "count": [{"value": 3}]}

Every output is a list, because a batch of pictures is several.  Values that only nodes understand (latents, handles)
are told by their type alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphengine.engine import Run
from graphengine.errors import AssetError
from graphengine.values import File, Image, Mask

from .content import Content, ContentFolder


def results(run: Run, folder: ContentFolder) -> dict[str, list[dict[str, Any]]]:
    """The declared outputs of a finished run, and what its effects have written under `NODE.PORT`."""
    made = {name: list(_items(value, name, run, folder)) for name, value in run.result(0).items()}
    declared = {str(link) for link in run.workflow.outputs.values()}
    for node, outputs in run.effects.items():
        for port, value in outputs.items():
            if _files(value) and f"{node}.{port}" not in declared:
                made[f"{node}.{port}"] = list(_items(value, f"{node}.{port}", run, folder))
    return made


def _files(value: Any) -> bool:
    return isinstance(value, File) or (isinstance(value, list) and any(isinstance(item, File) for item in value))


def _items(value: Any, name: str, run: Run, folder: ContentFolder) -> Iterator[dict[str, Any]]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if isinstance(item, Image | Mask):
            yield from _pictures(item, name, run, folder)
        elif isinstance(item, File):
            yield _file(item, folder)
        elif isinstance(item, int | float | str | bool | None):
            yield {"value": item}
        else:
            yield {"kind": type(item).__name__}


def _pictures(value: Image | Mask, name: str, run: Run, folder: ContentFolder) -> Iterator[dict[str, Any]]:
    from graphengine.pictures import write_png

    recipe: Mapping[str, Any] = run.recipe()
    pictures = (value if isinstance(value, Image) else _as_image(value)).pil()
    for index, picture in enumerate(pictures):
        notes = {**recipe, "output": name, "index": index}
        content = folder.add(lambda path, p=picture, n=notes: write_png(path, p, n))
        yield {**_told(content), "width": picture.width, "height": picture.height}


def _as_image(mask: Mask) -> Image:
    return Image(mask.alpha[..., None].repeat(3, axis=-1))


def _file(file: File, folder: ContentFolder) -> dict[str, Any]:
    """A file that a node has saved: kept by digest too, so that it can be fetched whatever becomes of the original."""
    path = Path(file.path)
    try:
        content = folder.add(lambda part: part.write_bytes(path.read_bytes()))
    except (AssetError, OSError):
        return {"kind": "File", "name": path.name, "bytes": file.bytes}
    from PIL import Image as pillow

    with pillow.open(folder.path(content)) as picture:
        return {**_told(content), "name": path.name, "width": picture.width, "height": picture.height}


def _told(content: Content) -> dict[str, Any]:
    return {"digest": content.digest, "type": content.type, "bytes": content.bytes}
