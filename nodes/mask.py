"""Masks: from pictures, from shapes, larger, softer."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image as pillow
from PIL import ImageFilter

from graphengine import Context, Field, Image, Mask, Node, Ports


class _Shape(Node):
    """The canvas and the box that drawn masks share."""

    width: int = Field(64, ge=1, le=16384, description="of the canvas, pixels")
    height: int = Field(64, ge=1, le=16384, description="of the canvas, pixels")
    left: float = Field(0.25, ge=0, le=1, description="share of the width")
    top: float = Field(0.25, ge=0, le=1, description="share of the height")
    right: float = Field(0.75, ge=0, le=1, description="share of the width")
    bottom: float = Field(0.75, ge=0, le=1, description="share of the height")

    class Outputs(Ports):
        mask: Mask

    def _box(self) -> tuple[float, float, float, float]:
        if self.right <= self.left or self.bottom <= self.top:
            raise ValueError("the box is empty: right must lie beyond left, and bottom beyond top.")
        w, h = self.width, self.height
        return self.left * w, self.top * h, self.right * w, self.bottom * h


class RectangleMask(_Shape, category="mask"):
    """A rectangle, drawn; whole pixels only."""

    def run(self, ctx: Context) -> _Shape.Outputs:
        left, top, right, bottom = (round(edge) for edge in self._box())
        alpha = np.zeros((1, self.height, self.width), np.float32)
        alpha[:, top:bottom, left:right] = 1
        if not alpha.any():
            raise ValueError("the box covers no whole pixel; make it larger.")
        return self.Outputs(mask=Mask(alpha))


class EllipseMask(_Shape, category="mask"):
    """The ellipse that fills a box, drawn; a pixel counts when its centre lies inside."""

    def run(self, ctx: Context) -> _Shape.Outputs:
        left, top, right, bottom = self._box()
        y, x = np.mgrid[0 : self.height, 0 : self.width] + 0.5
        x = (2 * x - left - right) / (right - left)
        y = (2 * y - top - bottom) / (bottom - top)
        return self.Outputs(mask=Mask((x**2 + y**2 <= 1).astype(np.float32)[None]))


class ChannelMask(Node, category="mask"):
    """One channel of a picture as a mask; alpha of a picture without transparency is 1."""

    image: Image
    channel: Literal["red", "green", "blue", "alpha", "luminance"] = Field("luminance", description="which channel")

    class Outputs(Ports):
        mask: Mask

    def run(self, ctx: Context) -> Outputs:
        pixels = self.image.pixels
        if self.channel == "luminance":
            alpha = pixels[..., :3] @ np.array([0.2126, 0.7152, 0.0722], np.float32)
        elif self.channel == "alpha" and pixels.shape[-1] == 3:
            alpha = np.ones(pixels.shape[:3], np.float32)
        else:
            alpha = pixels[..., ("red", "green", "blue", "alpha").index(self.channel)]
        return self.Outputs(mask=Mask(np.ascontiguousarray(alpha).clip(0, 1)))


class ColourMask(Node, category="mask"):
    """Where a picture has a colour, or one near it."""

    image: Image
    colour: str = Field("#ffffff", pattern=r"^#[0-9a-fA-F]{6}$", description="#rrggbb")
    tolerance: float = Field(0.1, ge=0, le=1.75, description="distance in RGB, each channel 0..1, that still counts")

    class Outputs(Ports):
        mask: Mask

    def run(self, ctx: Context) -> Outputs:
        wanted = np.array([int(self.colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255
        distance = np.linalg.norm(self.image.pixels[..., :3] - wanted, axis=-1)
        return self.Outputs(mask=Mask((distance <= self.tolerance + 1e-6).astype(np.float32)))


class GrowMask(Node, category="mask"):
    """Make a mask larger, or smaller with a negative number of pixels."""

    mask: Mask
    pixels: int = Field(4, ge=-512, le=512, description="how far, in pixels, along rows and columns and diagonals")

    class Outputs(Ports):
        mask: Mask

    def run(self, ctx: Context) -> Outputs:
        size = 2 * abs(self.pixels) + 1
        if size == 1:
            return self.Outputs(mask=self.mask)
        choose = np.max if self.pixels > 0 else np.min
        alpha = self.mask.alpha
        for axis in (1, 2):  # a square is grown along one axis after the other
            border = [(0, 0)] * 3
            border[axis] = (size // 2, size // 2)
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(alpha, border, "edge"), size, axis)
            alpha = choose(windows, axis=-1)
        return self.Outputs(mask=Mask(np.ascontiguousarray(alpha)))


class FeatherMask(Node, category="mask"):
    """Soften the edge of a mask with a Gaussian."""

    mask: Mask
    radius: float = Field(4.0, ge=0, le=512, description="standard deviation in pixels")

    class Outputs(Ports):
        mask: Mask

    def run(self, ctx: Context) -> Outputs:
        if self.radius == 0:
            return self.Outputs(mask=self.mask)
        soft = []
        for plane in self.mask.alpha:
            levels = pillow.fromarray((plane * 255).round().astype(np.uint8))
            soft.append(np.asarray(levels.filter(ImageFilter.GaussianBlur(self.radius)), np.float32) / 255)
        return self.Outputs(mask=Mask(np.stack(soft)))
