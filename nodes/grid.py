"""Contact sheets: many pictures as one, in rows and columns, each with its label.

A sheet is measured first and painted afterwards, so that one too large is refused before it takes memory.  Pictures
go onto it as floats: one that is not scaled keeps its bits.  Only text passes through PIL, as a mask of ink.

Glossary
    paper, ink   colour of the background, and of the text on it, RGB in 0..1
    lines        a label, wrapped to the width of its cell
    spot         left and top of a picture on the sheet, in pixels
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow
from PIL import ImageColor, ImageDraw, ImageFont

from graphengine import Context, Field, Image, Node, Ports
from graphengine.planes import resize_planes

from .image import Colour

LINES = 3
ELLIPSIS = "…"
Size = tuple[int, int]


class Grid(Node, category="image"):
    """A labelled contact sheet: every picture of every batch becomes a cell, in order."""

    images: list[Image]
    labels: list[str | int | float] = Field(
        [], description="one per image of the list or one per picture; none leaves them out"
    )
    columns: int = Field(0, ge=0, le=1000, description="0 makes the grid as square as possible")
    cell: int = Field(0, ge=0, le=4096, description="width of a cell in pixels; 0 keeps the pictures' own sizes")
    gap: int = Field(4, ge=0, le=512, description="pixels between cells and around the sheet")
    title: str = Field("", description="stands above the pictures")
    background: Colour = Field("#ffffff", description="#rrggbb; text is black or white, whichever reads better")

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        pictures = [image.pixels[i : i + 1] for image in self.images for i in range(len(image))]
        if not pictures:
            raise ValueError("there are no pictures to lay out.")
        labels = _labels([str(label) for label in self.labels], [len(image) for image in self.images])
        sizes = [_fit((p.shape[2], p.shape[1]), self.cell) for p in pictures]
        columns = min(self.columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
        sheet = _Sheet.measure(sizes, labels, columns, self.gap, self.title)
        if sheet.width * sheet.height > ctx.settings.pixel_limit:
            limit = f"at most {ctx.settings.pixel_limit:,} pixels are allowed; set a smaller cell"
            raise ValueError(f"the sheet would be {sheet.width} x {sheet.height}; {limit}.")
        paper = np.array(ImageColor.getrgb(self.background), np.float32) / 255
        canvas = sheet.paper_with_text(paper)
        for done, (pixels, size, (left, top)) in enumerate(zip(pictures, sizes, sheet.spots, strict=True), 1):
            canvas[top : top + size[1], left : left + size[0]] = _scaled(_over(pixels, paper), size)[0]
            ctx.progress(done, len(pictures))
        return self.Outputs(image=Image(canvas[None]))


@dataclass(frozen=True)
class _Sheet:
    """A sheet, measured: its size, where the pictures go, and what is written where."""

    width: int
    height: int
    spots: list[tuple[int, int]]
    texts: list[tuple[tuple[float, int], str, Any]]
    """Upper middle of a line, the line, its font."""

    @classmethod
    def measure(cls, sizes: list[Size], labels: list[str], columns: int, gap: int, title: str) -> _Sheet:
        """Lay out pictures of these sizes: columns of one width, rows as high as what stands in them."""
        wide = max(width for width, _ in sizes)
        font, step = _font(wide)
        width = columns * wide + (columns + 1) * gap
        texts, top = _heading(title, width, gap, wide)
        spots = []
        for start in range(0, len(sizes), columns):
            row = sizes[start : start + columns]
            lines = [_wrap(label, font, wide) for label in labels[start : start + columns]]
            high = max(height for _, height in row)
            for column, (size, told) in enumerate(zip(row, lines, strict=True)):
                left = gap + column * (wide + gap)
                # standing on a common ground, so that each label follows its picture and labels line up
                spots.append((left + (wide - size[0]) // 2, top + high - size[1]))
                below = top + high + step // 4
                texts += [((left + wide / 2, below + n * step), line, font) for n, line in enumerate(told)]
            most = max(map(len, lines))
            top += high + gap + (most * step + step // 2 if most else 0)
        return cls(width, top, spots, texts)

    def paper_with_text(self, paper: np.ndarray) -> np.ndarray:
        """The sheet without its pictures, float32 `[H, W, 3]`."""
        mask = pillow.new("L", (self.width, self.height))
        pen = ImageDraw.Draw(mask)
        for place, line, font in self.texts:
            pen.text(place, line, fill=255, font=font, anchor="ma")
        alpha = np.asarray(mask, np.float32)[..., None] / 255
        return paper + (_ink(paper) - paper) * alpha


def _labels(labels: list[str], batches: list[int]) -> list[str]:
    """One label per picture: as given, or that of its image repeated over a batch."""
    count = sum(batches)
    if not labels:
        return [""] * count
    if len(labels) == count:
        return labels
    if len(labels) == len(batches):
        return [label for label, pictures in zip(labels, batches, strict=True) for _ in range(pictures)]
    expected = f"{count} pictures" if count == len(batches) else f"{len(batches)} images with {count} pictures"
    raise ValueError(f"there are {expected}, but {len(labels)} labels; give one for each, or none.")


def _fit(size: Size, cell: int) -> Size:
    """Size of a picture in a cell of this width, its aspect kept."""
    width, height = size
    return (cell, max(1, round(height * cell / width))) if cell else size


def _scaled(planes: np.ndarray, size: Size) -> np.ndarray:
    """Small pictures are enlarged to clean squares where that works out, all else is resampled."""
    whole = size[0] >= planes.shape[2] and size[0] % planes.shape[2] == 0
    return resize_planes(planes, size, "nearest" if whole else "lanczos")


def _over(pixels: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """RGB of a picture laid over the paper; before scaling, or hidden colours would bleed over the edges."""
    if pixels.shape[-1] == 3:
        return pixels
    alpha = pixels[..., 3:]
    return np.where(alpha == 1, pixels[..., :3], paper + (pixels[..., :3] - paper) * alpha)


def _ink(paper: np.ndarray) -> np.float32:
    """Black or white, whichever has the higher contrast on the paper (WCAG 2.2: they tie at luminance 0.179)."""
    luminance = paper**2.2 @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    return np.float32(0 if luminance > 0.179 else 1)


def _font(width: int, scale: float = 1.0) -> tuple[Any, int]:
    """A font that suits cells of this width, and the distance of its lines in pixels."""
    size = round(min(max(width / 14, 11), 32) * scale)
    return ImageFont.truetype(_font_file(), size), round(size * 1.25)


@lru_cache(maxsize=1)
def _font_file() -> Path:
    """DejaVu Sans, which matplotlib brings along and Pillow does not: it can write most of the world's letters."""
    package = find_spec("matplotlib")  # found, not imported: that would take longer than the sheet
    if package is None or package.origin is None:
        raise ValueError("labels need a font; install matplotlib, which brings one.")
    return Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


def _heading(title: str, width: int, gap: int, cell: int) -> tuple[list[tuple[tuple[float, int], str, Any]], int]:
    """The lines of the title, and where the pictures begin below it."""
    font, step = _font(cell, 1.5)
    top = max(gap, step // 3)
    lines = _wrap(title, font, width - 2 * gap)
    texts = [((width / 2, top + n * step), line, font) for n, line in enumerate(lines)]
    return texts, top + len(lines) * step + step // 3 if lines else gap


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Lines that fit the width, at most three; an ellipsis says that there was more."""
    lines: list[str] = []
    for part in text[: LINES * width].splitlines():  # no letter is narrower than a pixel
        line = ""
        for word in _words(part.split(), font, width):
            joined = f"{line} {word}".lstrip()
            if line and font.getlength(joined) > width:
                lines.append(line)
                joined = word
            line = joined
        lines.append(line)
    if len(lines) <= LINES:
        return lines
    last = lines[LINES - 1]
    while last and font.getlength(last + ELLIPSIS) > width:
        last = last[:-1]
    return [*lines[: LINES - 1], last.rstrip() + ELLIPSIS]


def _words(words: Sequence[str], font: Any, width: int) -> Iterator[str]:
    """The words, cut where one alone is wider than the line."""
    for word in words:
        while len(word) > 1 and font.getlength(word) > width:
            count = next(n for n in range(1, len(word) + 1) if font.getlength(word[: n + 1]) > width)
            yield word[:count]
            word = word[count:]
        yield word
