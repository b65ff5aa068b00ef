"""A blind reader of pictures: what does this picture show, in the words of `scenes`?

A model that draws scenes from captions has to be measured, and the measure must not know the caption.
`read` sees only pixels, and explains them from back to front.  The ring along the border is explained by
the simplest of four grounds, each fitted so that a thing that strays into the ring does not matter.  What
the ground cannot explain is foreground; its strongest regions are peeled off one by one, as the things.
A thing's colour is the palette colour nearest (in CIELAB) to its innermost pixels, for an edge is always
a mixture.  Every pixel is then unmixed into a share of thing and a share of ground, and this soft mask,
moved to its centroid and scaled to area 1, is compared with all shapes at several scales and softnesses:
generated pictures are blurred, and a thresholded soft star is nearly a circle, but a blur keeps area and
centroid.  `facts` holds a reading against the scene that was asked for; `score` counts over many.

Glossary
    ring        the pixels within RING of the border: nearly always ground
    under       the colour that the ground has, or would have, at every pixel
    difference  RGB distance of a pixel from the ground under it; `inner` is its least over 3 x 3 pixels
    region      a connected set of foreground pixels, hence one thing (two that touch are cut apart)
    mask        the share of thing in every pixel, 0..1
    share       a part of a whole: of a mixture, or, for lengths, of the picture's side
    frame       the mask resampled to area 1 about its centroid; the bank holds those of all shapes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from graphengine.training import scenes as world
from graphengine.training.scenes import Scene, Thing

SIDE, CELLS, RING = 64, 8, 3
"""Side at which pictures are read, cells along it in stripes and checkers, and depth of the ring."""
SMOOTHING, FAINTEST, CORE, EDGE = 0.7, 22.0, 0.7, 0.35
"""Blur against noise (sigma); least difference; least part of the inner in a core; least share."""
SMALLEST, LONGEST, SLIMMEST, WAIST, MOST = 30, 42, 1.25, 0.6, 5
"""Least area of a thing; a region longer, slimmer and more waisted is two; most regions peeled off."""
FRAME, REACH, SCALES, SOFTNESS = 36, 1.15, (0.93, 1.0, 1.07), (0.025, 0.05, 0.08, 0.11)
"""Pixels along a frame; distance from its centre to its side; scales and blurs (sigma) in the bank."""


@dataclass(frozen=True)
class ReadThing:
    """One thing as seen, lengths as shares of the side; confidence 0: another shape fits as well."""

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
    found = [(_thing(mask, own), weight) for mask, own, weight in _masks(pixels, under)]
    found.sort(key=lambda it: -it[1] * (0.1 + it[0].confidence))  # artifacts have no clear shape
    names = [name_of(colour) for colour in colours]
    return Reading(names[0], pattern, (*names, None)[1], tuple(thing for thing, _ in found[:2]))


def _at_reading_size(picture: np.ndarray) -> np.ndarray:
    """The picture as float32 `[SIDE, SIDE, 3]`."""
    shape = picture.shape
    if picture.dtype != np.uint8:
        raise ValueError(f"The checker reads uint8 pictures, but this one holds {picture.dtype}.")
    if len(shape) != 3 or shape[2] != 3 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"The checker reads pictures [side, side, 3], but this one is {[*shape]}.")
    if shape[0] != SIDE:
        picture = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE)))
    return picture.astype(np.float32)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours `[..., 3]` in 0..255: distances there are as the eye sees them."""
    rgb = np.clip(np.asarray(rgb, float) / 255, 0, 1)
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    rows = (0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)
    xyz = linear @ np.array(rows).T / np.sum(rows, axis=1)
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), xyz * 7.787 + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def name_of(colour: np.ndarray) -> str:
    """The palette's name for an RGB colour `[3]` in 0..255."""
    distances = np.linalg.norm(_lab(np.array(list(world.COLOURS.values()))) - _lab(colour), axis=1)
    return list(world.COLOURS)[int(distances.argmin())]


@lru_cache
def _layout() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The ring, bool `[SIDE, SIDE]`, and for each pattern the share of its second colour, likewise."""
    row, column = np.indices((SIDE, SIDE))
    ring = np.minimum(np.minimum(row, column), SIDE - 1 - np.maximum(row, column)) < RING
    rows, columns = row * CELLS // SIDE, column * CELLS // SIDE
    shares = (0.0 * row, (row + 0.5) / SIDE, rows % 2, (rows + columns) % 2)
    return ring, dict(zip(world.PATTERNS, shares, strict=True))


def _ends(pixels: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The two colours `[2, 3]` that explain ring pixels `[n, 3]` by their share `[n]` of the second."""
    mixture, weight, ends = np.stack([1 - share, share], 1), np.ones(len(share)), np.zeros((2, 3))
    for _ in range(5):  # least absolute deviations, by reweighting
        weighted = mixture * weight[:, None]
        ends = np.linalg.solve(weighted.T @ mixture, weighted.T @ pixels)
        weight = 1 / (np.linalg.norm(pixels - mixture @ ends, axis=1) + 4)
    return ends


def _ground(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """The pattern of a picture `[SIDE, SIDE, 3]` and its RGB colours `[1 or 2, 3]`."""
    ring, shares = _layout()
    seen = pixels[ring].astype(float)

    def misfit(model: np.ndarray) -> float:
        return float(np.minimum(np.linalg.norm(seen - model, axis=1), 80).mean())

    colours = np.median(seen, axis=0)[None]
    best, least = ("plain", colours), 0.7 * misfit(colours)
    for pattern in world.PATTERNS[1:]:
        share = shares[pattern][ring]
        ends = _ends(seen, share)
        error = misfit(ends[0] + share[:, None] * (ends[1] - ends[0]))
        if error < least and name_of(ends[0]) != name_of(ends[1]):
            best, least = (pattern, ends), error
    return best


def _under(pixels: np.ndarray, pattern: str, colours: np.ndarray) -> np.ndarray:
    """The ground's colour at every pixel, `[SIDE, SIDE, 3]`: any mixture in (soft) stripes and checkers."""
    share = _layout()[1][pattern]
    first, way = colours[0], colours[-1] - colours[0]
    if pattern in ("striped", "checkered"):
        share = np.clip((pixels - first) @ way / (way @ way), 0, 1)
    return first + share[..., None] * way


def _masks(pixels: np.ndarray, under: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Each thing's mask `[SIDE, SIDE]`, own RGB colour `[3]` and weight (sum of differences)."""
    from scipy.ndimage import binary_dilation, minimum_filter

    difference = np.linalg.norm(pixels - under, axis=2)
    inner, left = minimum_filter(difference, 3), difference > FAINTEST
    for _ in range(MOST):
        peak = int((inner * left).argmax())
        if not left.flat[peak] or inner.flat[peak] < FAINTEST:
            return
        whole = _piece(left, peak)
        part = _cut(whole, peak)
        core = part & (inner >= CORE * inner[part].max())
        own = np.median(pixels[core], axis=0)
        way = own - under
        share = ((pixels - under) * way).sum(2) / np.maximum((way * way).sum(2), 1)
        piece = _piece(part & (share > EDGE), int((inner * part).argmax()))
        region = np.asarray(binary_dilation(piece, iterations=2), bool)
        left &= ~(region | core)
        if piece.sum() >= SMALLEST:
            region &= part | ~whole
            yield np.clip(share, 0, 1) * region, own, float(difference[region].sum())


def _piece(region: np.ndarray, pixel: int) -> np.ndarray:
    """The connected piece of a region that holds a pixel (flat index), bool `[SIDE, SIDE]`."""
    from scipy.ndimage import label

    labels = np.zeros(region.shape, int)
    label(region, output=labels)
    return region & (labels == labels.flat[pixel])


def _cut(whole: np.ndarray, peak: int) -> np.ndarray:
    """The part with the peak of a region that is too long for one thing and has a waist, else all."""
    spans = [np.flatnonzero(whole.any(1 - axis)) for axis in (0, 1)]
    lengths = [int(span[-1] - span[0]) + 1 for span in spans]
    axis = int(np.argmax(lengths))
    if lengths[axis] < LONGEST or lengths[axis] < SLIMMEST * lengths[1 - axis]:
        return whole
    profile, third = whole.sum(1 - axis), lengths[axis] // 3
    start = int(spans[axis][0]) + third
    middle = start + int(profile[start : start + third + 1].argmin())
    if profile[middle] > WAIST * min(profile[:middle].max(), profile[middle:].max()):
        return whole
    place = np.indices(whole.shape)[axis]
    return whole & ((place < middle) if place.flat[peak] < middle else (place > middle))


def _thing(mask: np.ndarray, own: np.ndarray) -> ReadThing:
    """The reading of a thing by its mask `[SIDE, SIDE]` and its own colour `[3]`."""
    area = float(mask.sum())
    row, column = (float(mask.sum(1 - axis) @ np.arange(SIDE) / area) for axis in (0, 1))
    shape, confidence = _shape(mask, (row, column), area)
    radius = float(np.sqrt(area / _unit_area(shape))) / SIDE
    centre = (column + 0.5) / SIDE, (row + 0.5) / SIDE
    size = min(world.SIZES, key=lambda name: abs(world.SIZES[name] - radius))
    offset = (np.array(centre) - 0.5) / (0.5 - 1.2 * world.SIZES[size] - world.MARGIN)
    position = min(world.POSITIONS, key=lambda it: float(np.hypot(*(offset - world.POSITIONS[it]))))
    return ReadThing(name_of(own), shape, size, position, centre, radius, confidence)


@lru_cache
def _unit_area(shape: str) -> float:
    """Area of a shape of radius 1, its hole taken off."""
    return float(world.coverage(shape, (64, 64), 50, 128).sum()) / 50**2


@lru_cache
def _bank() -> np.ndarray:
    """Frames of all shapes, `[shape, variant, FRAME * FRAME]`, each with a sum of squares of 1."""
    from scipy.ndimage import gaussian_filter

    unit, bank = FRAME / (2 * REACH), []
    for shape, scale in product(world.SHAPES, SCALES):
        radius = scale * unit / float(np.sqrt(_unit_area(shape)))
        sharp = world.coverage(shape, (FRAME / 2, FRAME / 2), radius, FRAME)
        bank += [gaussian_filter(sharp, softness * unit).ravel() for softness in SOFTNESS]
    frames = np.array(bank).reshape(len(world.SHAPES), -1, FRAME * FRAME)
    return frames / np.linalg.norm(frames, axis=2, keepdims=True)


def _shape(mask: np.ndarray, centre: tuple[float, float], area: float) -> tuple[str, float]:
    """The best fitting shape and the confidence in it; centre (row, column) and area in pixels."""
    from scipy.ndimage import map_coordinates

    step = ((np.arange(FRAME) + 0.5) / FRAME * 2 - 1) * REACH * np.sqrt(area)
    places = np.meshgrid(centre[0] + step, centre[1] + step, indexing="ij")
    frame = map_coordinates(mask, places, order=1).ravel()
    likeness = (_bank() @ frame / max(np.linalg.norm(frame), 1e-6)).max(axis=1)
    best, second = np.argsort(-likeness)[:2]
    misfit = np.maximum(1 - likeness, 1e-6)
    return world.SHAPES[best], float(1 - misfit[best] / misfit[second])


def facts(scene: Scene, reading: Reading) -> dict[str, bool]:
    """Which facts of a scene a reading confirms; `all` tells whether every other one holds."""
    grounds = [[it.pattern, str(it.ground), str(it.second_ground)] for it in (scene, reading)]
    if scene.pattern in ("striped", "checkered"):
        grounds = [sorted(ground) for ground in grounds]
    held = {"background": grounds[0] == grounds[1]}
    if len(scene.things) == 2:
        held |= _pair_facts(scene, reading.things)
    else:
        asked, seen = scene.things[0], (*reading.things, None)[0]
        wanted = {"colour": asked.colour, "shape": asked.shape}
        wanted |= {"position": asked.position or "in the center"}
        wanted |= {"size": asked.size} if asked.size else {}
        held |= {fact: getattr(seen, fact, None) == wanted[fact] for fact in wanted}
    return held | {"all": all(held.values())}


def _pair_facts(scene: Scene, things: tuple[ReadThing, ...]) -> dict[str, bool]:
    """Facts of two things; the relation is judged between those that match the asked ones best."""

    def matches(asked: Thing, seen: ReadThing) -> int:
        return (asked.colour == seen.colour) + (asked.shape == seen.shape)

    first, second = scene.things
    held = {"first": any(matches(first, seen) == 2 for seen in things)}
    held["second"] = any(matches(second, seen) == 2 for seen in things)
    way, ranked = np.array(world.RELATIONS[scene.relation or "and"]), [(0, False)]
    for one, other in (things, things[::-1]) if len(things) == 2 else ():
        offset = np.array(one.centre) - other.centre
        placed = bool(offset @ way > max(0.15, abs(offset @ way[::-1])))
        ranked.append((matches(first, one) + matches(second, other), placed))
    most, holds = max(ranked)
    return held | {"both": most == 4, "relation": most >= 2 and holds}


def score(scenes: Sequence[Scene], pictures: Sequence[np.ndarray]) -> dict[str, tuple[int, int]]:
    """(right, total) of each fact over many pictures; shapes also by size, as in `shape_small`."""
    counts: dict[str, tuple[int, int]] = {}
    for scene, picture in zip(scenes, pictures, strict=True):
        held = facts(scene, read(picture))
        if len(scene.things) == 1:
            held[f"shape_{scene.things[0].size or 'medium'}"] = held["shape"]
        for fact, holds in held.items():
            right, total = counts.get(fact, (0, 0))
            counts[fact] = right + holds, total + 1
    return counts
