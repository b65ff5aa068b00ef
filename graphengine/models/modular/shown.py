"""Pictures on their way into a modular pipeline and out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image as pillow

from graphengine.blocks import ModularState
from graphengine.errors import did_you_mean
from graphengine.values import Image, Mask


def drawn(image: Image | Mask | None) -> Any:
    """Pictures and masks with 8 bits, as image processors take them; white is where to repaint.

    One comes by itself, several as a list, and None stays None.
    """
    if image is None:
        return None
    if isinstance(image, Image):
        made = image.pil()
    else:
        made = [pillow.fromarray((alpha * 255).round().astype(np.uint8)) for alpha in image.alpha]
    return made if len(made) > 1 else made[0]


def shown(state: ModularState, name: str) -> np.ndarray:
    """Pixels float32 `[N, H, W, C]` in 0..1 of an output, a film's frames one after the other.

    Raises:
        ValueError: there is no such output, or it is no picture.
    """
    if name not in state.values:
        hint = did_you_mean(name, state.values) or f"There is {', '.join(state.values)}."
        raise ValueError(f"the state holds no {name!r}. {hint}")
    made = list(_frames(state.values[name], name))
    sizes = {frame.shape[1:] for frame in made}
    if len(sizes) != 1:
        raise ValueError(f"{name} holds pictures of {len(sizes)} sizes; expected one.")
    return np.concatenate(made)


def _frames(value: Any, name: str) -> Iterator[np.ndarray]:
    """Pictures `[n, H, W, C]` out of lists, films and arrays."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _frames(item, name)
        return
    if isinstance(value, pillow.Image):
        value = np.asarray(value.convert("RGBA" if value.mode == "RGBA" else "RGB"), np.float32) / 255
    if not (isinstance(value, np.ndarray) and value.ndim >= 3 and value.shape[-1] in (3, 4)):
        raise ValueError(f"{name} is no picture but a {type(value).__name__}.")
    yield np.ascontiguousarray(value.reshape(-1, *value.shape[-3:]), np.float32).clip(0, 1)
