"""Picture files: opened with care, resized, and written with the recipe that made them.

A recipe is JSON in the PNG text chunk `graphengine`: workflow, inputs, outside facts (model digests), package
versions and numeric settings.  `read_recipe` finds it again.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow
from PIL import ImageOps, PngImagePlugin, UnidentifiedImageError

from graphengine.errors import AssetError

FORMATS = ("PNG", "JPEG", "WEBP")
CHUNK = "graphengine"
RECIPE_LIMIT = 64 * 2**20


def open_picture(path: Path, pixel_limit: int) -> np.ndarray:
    """Pixels of a file as float32 `[H, W, 4]` in 0..1, upright; opaque when it has no transparency.

    Raises:
        AssetError: no picture, damaged, of another format, or larger than `pixel_limit` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            with pillow.open(path, formats=FORMATS) as picture:
                wide, high = picture.size
                if wide * high > pixel_limit:
                    raise AssetError(f"{path.name} has {wide} x {high} pixels; at most {pixel_limit:,} are opened.")
                upright = _levels(ImageOps.exif_transpose(picture)).convert("RGBA")
    except UnidentifiedImageError:
        raise AssetError(f"{path.name} is no picture; {', '.join(FORMATS)} can be read.") from None
    except pillow.DecompressionBombError:
        raise AssetError(f"{path.name} is too large to be opened.") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise AssetError(f"{path.name} is damaged: {error}.") from error
    return np.asarray(upright, np.float32) / 255


def _levels(picture: pillow.Image) -> pillow.Image:
    """The picture at 8 bits a channel: Pillow cuts 16-bit greys off at 255 where it should scale them."""
    if not picture.mode.startswith("I"):
        return picture
    return pillow.fromarray((np.asarray(picture).astype(np.float32) / 257).round().clip(0, 255).astype(np.uint8))


def write_png(path: Path, picture: pillow.Image, recipe: dict[str, Any]) -> None:
    """A PNG with its recipe; the same picture and recipe always give the same bytes."""
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt(CHUNK, json.dumps(recipe, ensure_ascii=False), zip=True)
    picture.save(path, "PNG", pnginfo=notes, compress_level=4)


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe in a picture.  Raises AssetError when it has none that can be read."""
    try:
        with pillow.open(path, formats=("PNG",)) as picture:
            picture.load()
            text = getattr(picture, "text", {}).get(CHUNK)
    except (OSError, ValueError, SyntaxError) as error:
        raise AssetError(f"{path.name} is no PNG that can be read: {error}.") from error
    if text is None:
        raise AssetError(f"{path.name} carries no recipe.")
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("workflow"), dict):
        raise AssetError(f"{path.name}: its recipe is damaged.")
    return recipe
