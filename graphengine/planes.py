"""Arrays of picture planes at another size."""

from __future__ import annotations

import numpy as np
from PIL import Image as pillow

METHODS = {
    "nearest": pillow.Resampling.NEAREST,
    "bilinear": pillow.Resampling.BILINEAR,
    "bicubic": pillow.Resampling.BICUBIC,
    "lanczos": pillow.Resampling.LANCZOS,
}


def resize_planes(planes: np.ndarray, size: tuple[int, int], method: str = "lanczos") -> np.ndarray:
    """Float32 `[B, H, W, C]` at another size (width, height), each channel by itself, clipped to 0..1."""
    batch, high, wide, channels = planes.shape
    if (wide, high) == size:
        return planes
    made = np.empty((batch, size[1], size[0], channels), np.float32)
    for row in range(batch):
        for channel in range(channels):
            plane = pillow.fromarray(np.ascontiguousarray(planes[row, :, :, channel]))
            made[row, :, :, channel] = np.asarray(plane.resize(size, METHODS[method]))
    return made.clip(0, 1)


def as_picture(pixels: np.ndarray, size: tuple[int, int] | None = None) -> pillow.Image:
    """Float32 `[H, W, 3]` in 0..1 at 8 bits, and resized there as networks were shown pictures in training."""
    picture = pillow.fromarray((pixels * 255).round().astype(np.uint8))
    return picture if size in (None, picture.size) else picture.resize(size, pillow.Resampling.LANCZOS)
