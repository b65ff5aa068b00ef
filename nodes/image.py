"""The plain operations on pictures."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from graphengine import Context, Field, Image, Mask, Node, Ports
from graphengine.planes import resize_planes

Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="#rrggbb")]
Method = Literal["nearest", "bilinear", "bicubic", "lanczos"]


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


class Invert(Node, category="image"):
    """Turn a picture into its negative, or a mask inside out.  Transparency stays."""

    image: Image | None = Field(None, description="the picture to invert")
    mask: Mask | None = Field(None, description="the mask to invert")

    class Outputs(Ports):
        image: Image | None
        mask: Mask | None

    def run(self, ctx: Context) -> Outputs:
        if self.image is None and self.mask is None:
            raise ValueError("there is nothing to invert; link an image or a mask.")
        image = None
        if self.image is not None:
            pixels = self.image.pixels.copy()
            pixels[..., :3] = 1 - pixels[..., :3]
            image = Image(pixels)
        mask = None if self.mask is None else Mask(1 - self.mask.alpha)
        return self.Outputs(image=image, mask=mask)


class Resize(Node, category="image"):
    """Bring pictures to another size."""

    image: Image
    width: int = Field(ge=1, le=16384, description="pixels")
    height: int = Field(ge=1, le=16384, description="pixels")
    method: Method = Field("lanczos", description="how pixels are resampled")

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        ctx.settings.check_pixels(self.width, self.height, len(self.image))
        return self.Outputs(image=Image(resize_planes(self.image.pixels, (self.width, self.height), self.method)))


class Crop(Node, category="image"):
    """Cut a rectangle out of pictures."""

    image: Image
    left: int = Field(0, ge=0, description="pixels from the left")
    top: int = Field(0, ge=0, description="pixels from the top")
    width: int = Field(ge=1, description="pixels")
    height: int = Field(ge=1, description="pixels")

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        wide, high = self.image.size
        right, bottom = self.left + self.width, self.top + self.height
        if right > wide or bottom > high:
            raise ValueError(f"the rectangle ends at {right}, {bottom}; the picture is {wide} x {high}.")
        return self.Outputs(image=Image(self.image.pixels[:, self.top : bottom, self.left : right].copy()))


class Pad(Node, category="image"):
    """Add a border, and give the mask of what was added: the canvas for outpainting."""

    image: Image
    left: int = Field(0, ge=0, le=8192, description="pixels")
    top: int = Field(0, ge=0, le=8192, description="pixels")
    right: int = Field(0, ge=0, le=8192, description="pixels")
    bottom: int = Field(0, ge=0, le=8192, description="pixels")
    fill: Literal["edge", "reflect", "colour"] = Field("edge", description="what the border is made of")
    colour: Colour = Field("#808080", description="#rrggbb, for fill = colour")

    class Outputs(Ports):
        image: Image
        mask: Mask

    def run(self, ctx: Context) -> Outputs:
        pixels = self.image.pixels
        batch, high, wide, _ = pixels.shape
        ctx.settings.check_pixels(wide + self.left + self.right, high + self.top + self.bottom, batch)
        border = ((0, 0), (self.top, self.bottom), (self.left, self.right))
        if self.fill == "colour":
            padded = np.pad(pixels, (*border, (0, 0)))
            padded[...] = 1
            padded[..., :3] = _rgb(self.colour)
        else:
            padded = np.pad(pixels, (*border, (0, 0)), mode=self.fill)
        mask = np.pad(np.zeros(pixels.shape[:3], np.float32), border, constant_values=1)
        inner = np.s_[:, self.top : self.top + pixels.shape[1], self.left : self.left + pixels.shape[2]]
        padded[inner] = pixels
        return self.Outputs(image=Image(padded), mask=Mask(mask))


class Blend(Node, category="image"):
    """Mix two pictures of one size."""

    first: Image
    second: Image
    amount: float = Field(0.5, ge=0, le=1, description="0 is the first picture, 1 the second")
    mode: Literal["normal", "multiply", "screen", "difference"] = Field("normal", description="how colours combine")

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        a, b = _same_size(self.first, self.second)
        mixed = {
            "normal": lambda: b.copy(),
            "multiply": lambda: a * b,
            "screen": lambda: 1 - (1 - a) * (1 - b),
            "difference": lambda: abs(a - b),
        }[self.mode]()
        mixed[..., 3:] = b[..., 3:]  # modes combine colours; transparency is mixed as in "normal"
        return self.Outputs(image=Image((a + (mixed - a) * np.float32(self.amount)).clip(0, 1)))


class Composite(Node, category="image"):
    """Lay one picture over another where a mask says so; where it is 0 the base comes through bit for bit."""

    base: Image
    overlay: Image
    mask: Mask = Field(description="1 shows the overlay")

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        base, overlay = _same_size(self.base, self.overlay)
        if self.mask.size != self.base.size:
            wide, high = self.mask.size
            raise ValueError(f"the mask is {wide} x {high}, the picture {self.base.size[0]} x {self.base.size[1]}.")
        count, masks = max(len(base), len(overlay)), len(self.mask.alpha)
        if masks != count and 1 not in (masks, count):
            raise ValueError(f"there are {masks} masks and {count} pictures.")
        alpha = self.mask.alpha[..., None]
        mixed = np.where(alpha == 0, base, base + (overlay - base) * alpha)
        return self.Outputs(image=Image(np.where(alpha == 1, overlay, mixed)))


def _same_size(first: Image, second: Image) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of two pictures that can be combined: sizes equal, batches equal or one, both with alpha or neither."""
    if first.size != second.size:
        sizes = " and ".join(f"{w} x {h}" for w, h in (first.size, second.size))
        raise ValueError(f"the pictures must have one size, got {sizes}; Resize one of them.")
    if len(first) != len(second) and 1 not in (len(first), len(second)):
        raise ValueError(f"the batches have {len(first)} and {len(second)} pictures.")
    channels = max(first.pixels.shape[-1], second.pixels.shape[-1])
    return _channels(first.pixels, channels), _channels(second.pixels, channels)


def _channels(pixels: np.ndarray, count: int) -> np.ndarray:
    if pixels.shape[-1] == count:
        return pixels
    return np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
