"""A blind reader of pictures: what does this picture show, in the words of `scenes`?

A model that draws scenes from captions has to be measured, and the measure must not know the caption.
`read` therefore sees only pixels.  It explains the picture from the back to the front.  The ring of
pixels along the border is explained by the simplest of four grounds (plain, gradient, striped,
checkered), each fitted with medians so that a thing that strays into the ring does not matter.  What the
ground cannot explain is foreground; its connected regions are the things.  A thing's colour is the palette
colour nearest (in CIELAB) to its innermost pixels, for its edge is always a mixture.  Knowing both
colours, each pixel can be unmixed into a share of thing and a share of ground, and this soft mask, moved
to its centroid and scaled to area 1, is compared with the eight shapes at several scales and softnesses.

Soft masks are the point: generated pictures are blurred, and a thresholded soft star is nearly a circle.
Because blur keeps area and centroid, both are measured from the soft mask and need no correction.

`facts` holds a reading against the scene that was asked for, and `score` counts over many pictures.

Glossary
    ring         the pixels within RING of the border: nearly always ground
    under        the colour that the ground has, or would have, at every pixel
    difference   RGB distance of a pixel from the ground under it
    region       a connected set of foreground pixels, hence one thing (two that touch are cut apart)
    mask         the share of thing in every pixel, 0..1
    frame        the mask resampled about its centroid so that its area is 1: place and size are gone
    bank         the frames of all shapes at several scales and softnesses, to compare with
    share        a length as a part of the picture's side, so that the picture's size does not matter
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from graphengine.training.scenes import (
    COLOURS,
    MARGIN,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    coverage,
    outline,
)

SIDE, CELLS = 64, 8
"""Pictures are read at this side; stripes and checkers have this many cells along it."""
RING = 3
SMOOTHING = 0.7
"""Blur (sigma, pixels) against noise before anything is read; the bank is softened likewise."""
FAINTEST, EDGE = 22.0, 0.35
"""Least difference of foreground, in RGB and as a part of the thing's own difference."""
SMALLEST, LONGEST, SLIMMEST = 30, 44, 1.3
"""Least area of a thing; a region longer than LONGEST and slimmer than SLIMMEST is two things."""
FRAME, REACH = 36, 1.15
"""Pixels along a frame, and the distance from its centre to its side when the area is 1."""
SCALES, SOFTNESS = (0.93, 1.0, 1.07), (0.025, 0.05, 0.08, 0.11)
"""Variants in the bank; softness is the sigma of a blur when the area is 1."""


@dataclass(frozen=True)
class ReadThing:
    """One thing as seen; centre (x, y) and radius are shares of the side.

    `confidence` is 0 when a second shape fits the thing equally well, and 1 when none other fits at all.
    """

    colour: str
    shape: str
    size: str
    position: str
    centre: tuple[float, float]
    radius: float
    confidence: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows; the most prominent thing first, two at most."""

    ground: str
    pattern: str
    second_ground: str | None
    things: tuple[ReadThing, ...]


def read(picture: np.ndarray) -> Reading:
    """Read a square picture, uint8 `[side, side, 3]`, back into the words of `scenes`."""
    from scipy.ndimage import gaussian_filter

    pixels = gaussian_filter(_at_reading_size(picture), (SMOOTHING, SMOOTHING, 0))
    pattern, colours = _ground(pixels)
    under = _under(pixels, pattern, colours)
    found = [_thing(pixels, under, region, own) for region, own in _regions(pixels, under)]
    found.sort(key=lambda pair: -pair[0])
    names = [name_of(colour) for colour in colours]
    return Reading(
        ground=names[0],
        pattern=pattern,
        second_ground=None if pattern == "plain" else names[1],
        things=tuple(thing for _, thing in found[:2]),
    )


def _at_reading_size(picture: np.ndarray) -> np.ndarray:
    """The picture as float32 `[SIDE, SIDE, 3]`."""
    if picture.dtype != np.uint8:
        raise ValueError(f"The checker reads uint8 pictures, but this one holds {picture.dtype}.")
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.shape[0] != picture.shape[1]:
        raise ValueError(
            f"The checker reads square colour pictures [side, side, 3], but this one is "
            f"{list(picture.shape)}."
        )
    if not picture.shape[0]:
        raise ValueError("The checker cannot read an empty picture.")
    if picture.shape[0] != SIDE:
        way = Image.Resampling.BOX if picture.shape[0] > SIDE else Image.Resampling.BILINEAR
        picture = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), way))
    return picture.astype(np.float32)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours `[..., 3]` in 0..255: distances there are as the eye sees them."""
    share = np.clip(np.asarray(rgb, float) / 255, 0, 1)
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    to_xyz = np.array(
        [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.moveaxis(
        np.where(xyz > 0.008856, np.cbrt(xyz), xyz * 7.787 + 16 / 116), -1, 0
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@lru_cache
def _palette() -> np.ndarray:
    return _lab(np.array(list(COLOURS.values())))


def name_of(colour: np.ndarray) -> str:
    """The palette's name for an RGB colour `[3]` in 0..255."""
    return list(COLOURS)[int(np.linalg.norm(_palette() - _lab(colour), axis=1).argmin())]


@lru_cache
def _ring() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The ring, bool `[SIDE, SIDE]`, and each pattern's share of second colour at its pixels `[n]`."""
    row, column = np.mgrid[0:SIDE, 0:SIDE]
    ring = np.minimum(np.minimum(row, column), SIDE - 1 - np.maximum(row, column)) < RING
    cell = SIDE // CELLS
    shares = {
        "gradient": (row + 0.5) / SIDE,
        "striped": row // cell % 2,
        "checkered": (row // cell + column // cell) % 2,
    }
    return ring, {pattern: share[ring] for pattern, share in shares.items()}


def _ends(pixels: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The two colours `[2, 3]` that explain ring pixels `[n, 3]` by their share `[n]` of the second."""
    if set(np.unique(share)) == {0, 1}:
        return np.stack([np.median(pixels[share == part], axis=0) for part in (0, 1)])
    mixture = np.stack([1 - share, share], 1)
    weight = np.ones(len(share))
    for _ in range(3):  # least absolute deviations, by reweighting
        weighted = mixture * weight[:, None]
        ends = np.linalg.solve(weighted.T @ mixture, weighted.T @ pixels)
        weight = 1 / (np.linalg.norm(pixels - mixture @ ends, axis=1) + 4)
    return ends


def _ground(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """The pattern of a picture `[SIDE, SIDE, 3]` and its RGB colours `[1 or 2, 3]`."""
    ring, shares = _ring()
    seen = pixels[ring].astype(float)

    def misfit(model: np.ndarray) -> float:
        return float(np.minimum(np.linalg.norm(seen - model, axis=1), 80).mean())

    colours = np.median(seen, axis=0)[None]
    best, least = ("plain", colours), 0.7 * misfit(colours)
    for pattern, share in shares.items():
        ends = _ends(seen, share)
        error = misfit(ends[0] + share[:, None] * (ends[1] - ends[0]))
        if error < least and name_of(ends[0]) != name_of(ends[1]):
            best, least = (pattern, ends), error
    return best


def _under(pixels: np.ndarray, pattern: str, colours: np.ndarray) -> np.ndarray:
    """The ground's colour at every pixel, `[SIDE, SIDE, 3]`.

    Stripes and checkers are soft in generated pictures, so there any mixture of the two colours counts
    as ground, whichever is nearest to the pixel.
    """
    first, way = colours[0], colours[-1] - colours[0]
    if pattern == "plain":
        share = np.zeros((SIDE, SIDE))
    elif pattern == "gradient":
        share = np.repeat((np.arange(SIDE)[:, None] + 0.5) / SIDE, SIDE, axis=1)
    else:
        share = np.clip((pixels - first) @ way / (way @ way), 0, 1)
    return first + share[..., None] * way


def _regions(pixels: np.ndarray, under: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Each thing's region, bool `[SIDE, SIDE]`, and its own RGB colour `[3]`."""
    from scipy.ndimage import binary_dilation, find_objects, label, minimum_filter

    difference = np.linalg.norm(pixels - under, axis=2)
    labels, _ = label(difference > FAINTEST)
    inner = minimum_filter(difference, 3)
    for index, box in enumerate(find_objects(labels), 1):
        whole = labels == index
        if whole[box].sum() < SMALLEST:
            continue
        for part in _cut(whole, box, difference):
            level = np.percentile(inner[part], 70)
            core = part & (inner >= level)
            pieces, count = label(part & (difference > EDGE * np.median(difference[core])))
            if not count:
                continue
            sizes = np.bincount(pieces.ravel())
            piece = pieces == 1 + sizes[1:].argmax()
            if sizes[1:].max() >= SMALLEST and (core & piece).any():
                region = binary_dilation(piece, iterations=2)
                yield region & (part | ~whole), np.median(pixels[core & piece], axis=0)


def _cut(whole: np.ndarray, box: tuple[slice, slice], difference: np.ndarray) -> list[np.ndarray]:
    """Cut a region that is too long for one thing where it is thinnest, into two that do not touch."""
    lengths = np.array([span.stop - span.start for span in box])
    axis = int(lengths.argmax())
    if lengths[axis] < LONGEST or lengths[axis] < SLIMMEST * lengths[1 - axis]:
        return [whole]
    start, third = box[axis].start, int(lengths[axis]) // 3
    profile = np.minimum(difference * whole, 3 * FAINTEST).sum(1 - axis)
    middle = start + third + int(profile[start + third : start + 2 * third + 1].argmin())
    place = np.indices(whole.shape)[axis]
    return [whole & (place < middle), whole & (place > middle)]


def _thing(
    pixels: np.ndarray, under: np.ndarray, region: np.ndarray, own: np.ndarray
) -> tuple[float, ReadThing]:
    """The area (pixels) and the reading of the thing in a region whose colour `[3]` is `own`."""
    way = own - under
    share = ((pixels - under) * way).sum(2) / np.maximum((way * way).sum(2), 1)
    mask = np.clip(share, 0, 1) * region
    area = float(mask.sum())
    row, column = (mask.sum(1 - axis) @ np.arange(SIDE) / area for axis in (0, 1))
    shape, confidence = _shape(mask, (row, column), area)
    radius = float(np.sqrt(area / _unit_area(shape))) / SIDE
    centre = (float(column) + 0.5) / SIDE, (float(row) + 0.5) / SIDE
    size = min(SIZES, key=lambda name: abs(SIZES[name] - radius))
    position = _position(centre, SIZES[size])
    return area, ReadThing(name_of(own), shape, size, position, centre, radius, confidence)


@lru_cache
def _unit_area(shape: str) -> float:
    """Area of a shape of radius 1, holes taken off."""
    areas = []
    for x, y in (polygon.T for polygon in outline(shape)):
        areas.append(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    return areas[0] - sum(areas[1:])


@lru_cache
def _bank() -> np.ndarray:
    """Frames of all shapes, `[shape, variant, FRAME * FRAME]`, each with a sum of squares of 1."""
    from scipy.ndimage import gaussian_filter

    unit = FRAME / (2 * REACH)
    bank = []
    for shape in SHAPES:
        for scale in SCALES:
            radius = scale * unit / np.sqrt(_unit_area(shape))
            sharp = coverage(shape, (FRAME / 2, FRAME / 2), radius, FRAME)
            bank += [gaussian_filter(sharp, softness * unit).ravel() for softness in SOFTNESS]
    frames = np.array(bank)
    return (frames / np.linalg.norm(frames, axis=1, keepdims=True)).reshape(
        len(SHAPES), -1, FRAME * FRAME
    )


def _shape(mask: np.ndarray, centre: tuple[float, float], area: float) -> tuple[str, float]:
    """The best fitting shape and the confidence in it; centre (row, column) and area in pixels."""
    from scipy.ndimage import map_coordinates

    step = (np.arange(FRAME) + 0.5) / FRAME * 2 - 1
    rows, columns = (middle + step * REACH * np.sqrt(area) for middle in centre)
    frame = map_coordinates(mask, np.meshgrid(rows, columns, indexing="ij"), order=1).ravel()
    likeness = (_bank() @ frame / np.linalg.norm(frame)).max(axis=1)
    best, second = np.argsort(-likeness)[:2]
    misfit = np.maximum(1 - likeness, 1e-6)
    return SHAPES[best], float(1 - misfit[best] / misfit[second])


def _position(centre: tuple[float, float], radius: float) -> str:
    """The nearest named position of a thing of this nominal radius; all in shares."""
    reach = 0.5 - 1.2 * radius - MARGIN

    def distance(name: str) -> float:
        return float(np.hypot(*(np.array(centre) - 0.5 - reach * np.array(POSITIONS[name]))))

    return min(POSITIONS, key=distance)


def facts(scene: Scene, reading: Reading) -> dict[str, bool]:
    """Which facts of a scene a reading confirms; `all` tells whether every other one holds."""
    asked, shown = (
        [scene.ground, scene.second_ground],
        [reading.ground, reading.second_ground],
    )
    if scene.pattern in ("striped", "checkered"):
        asked, shown = sorted(map(str, asked)), sorted(map(str, shown))
    held = {"background": scene.pattern == reading.pattern and asked == shown}
    if len(scene.things) == 2:
        held |= _pair_facts(scene, reading.things)
    else:
        held |= _single_facts(scene.things[0], reading.things)
    return held | {"all": all(held.values())}


def _single_facts(asked: Thing, things: tuple[ReadThing, ...]) -> dict[str, bool]:
    seen = things[0] if things else None
    held = {
        "colour": seen is not None and seen.colour == asked.colour,
        "shape": seen is not None and seen.shape == asked.shape,
        "position": seen is not None and seen.position == (asked.position or "in the center"),
    }
    if asked.size:
        held["size"] = seen is not None and seen.size == asked.size
    return held


def _pair_facts(scene: Scene, things: tuple[ReadThing, ...]) -> dict[str, bool]:
    """Facts of two things.  The relation is judged between the things that match the asked ones best."""

    def matches(asked: Thing, seen: ReadThing) -> int:
        return (asked.colour == seen.colour) + (asked.shape == seen.shape)

    def placed(one: ReadThing, other: ReadThing) -> bool:
        way = np.array(RELATIONS[scene.relation or "and"])
        offset = np.array(one.centre) - other.centre
        return bool(offset @ way > max(0.15, abs(offset @ way[::-1])))

    first, second = scene.things
    held = {
        "first": any(matches(first, seen) == 2 for seen in things),
        "second": any(matches(second, seen) == 2 for seen in things),
        "both": False,
        "relation": False,
    }
    if len(things) == 2:
        orders = (things, things[::-1])
        ranked = [(matches(first, a) + matches(second, b), placed(a, b)) for a, b in orders]
        most, holds = max(ranked)
        held |= {"both": most == 4, "relation": most >= 2 and holds}
    return held


def score(scenes: Sequence[Scene], pictures: Sequence[np.ndarray]) -> dict[str, tuple[int, int]]:
    """How many pictures show each fact of their scenes, and how many were asked to: (right, total).

    `shape_small`, `shape_medium` and `shape_large` split the shapes of single things by asked size.
    """
    counts: dict[str, tuple[int, int]] = {}
    for scene, picture in zip(scenes, pictures, strict=True):
        held = facts(scene, read(picture))
        if len(scene.things) == 1:
            held[f"shape_{scene.things[0].size or 'medium'}"] = held["shape"]
        for fact, holds in held.items():
            right, total = counts.get(fact, (0, 0))
            counts[fact] = right + holds, total + 1
    return counts
