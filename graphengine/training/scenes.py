"""The world that the embedded model knows: simple scenes, drawn and described.

A `Scene` is one or two coloured shapes on a plain, gradient, striped or checkered ground.  It can be
drawn (`draw`, anti-aliased, 64 x 64 or any other size), described (`caption`) and made up (`random_scene`).
The same vocabulary is what the checker reads back from a picture, so drawing, language and measurement
share the constants below and nothing else.

Glossary
    thing      one shape with its colour, size and place
    ground     the background: a pattern and one or two colours
    relation   how the first of two things stands to the second ("and" means side by side)
    jitter     the small random displacement, scaling and tint that makes two pictures of one scene differ
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

T = TypeVar("T")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38),
    "orange": (245, 138, 28),
    "yellow": (246, 222, 52),
    "green": (44, 158, 68),
    "cyan": (64, 212, 222),
    "blue": (42, 78, 212),
    "purple": (132, 52, 176),
    "pink": (250, 150, 192),
    "white": (250, 250, 250),
    "gray": (128, 128, 128),
    "brown": (118, 72, 36),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")
SIZES = {"small": 0.16, "medium": 0.225, "large": 0.29}
"""Nominal radius of a shape as a share of the picture's side.  "medium" is what a caption leaves unsaid."""
POSITIONS = {
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
    "in the center": (0, 0),
}
PATTERNS = ("plain", "gradient", "striped", "checkered")
RELATIONS = {
    "and": (-1, 0),
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Side of the first thing as seen from the second."""
PAIR_RADIUS, PAIR_OFFSET, MARGIN = 0.18, 0.235, 0.04
OVERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """One shape.  `size` None means medium and unsaid; `position` None means centred and unsaid."""

    colour: str
    shape: str
    size: str | None = None
    position: str | None = None


@dataclass(frozen=True)
class Scene:
    """One or two things on a ground.  `relation` is set exactly when there are two things."""

    things: tuple[Thing, ...]
    ground: str
    pattern: str = "plain"
    second_ground: str | None = None
    relation: str | None = None


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def caption(scene: Scene) -> str:
    """Describe a scene in the model's language: `a large red circle on the left on a blue background`."""
    parts = []
    for thing in scene.things:
        words = [word for word in (thing.size, thing.colour, thing.shape) if word]
        place = f" {thing.position}" if thing.position else ""
        parts.append(f"{_article(words[0])} {' '.join(words[1:])}{place}")
    things = f" {scene.relation} ".join(parts) if scene.relation else parts[0]
    match scene.pattern:
        case "plain":
            ground = _article(scene.ground)
        case "gradient":
            ground = f"{_article(scene.ground)} to {scene.second_ground} gradient"
        case pattern:
            ground = f"{_article(scene.ground)} and {scene.second_ground} {pattern}"
    return f"{things} on {ground} background"


@lru_cache
def outline(shape: str) -> tuple[np.ndarray, ...]:
    """Polygons of a shape of nominal radius 1, y downwards, area centroid at the origin.

    The first polygon is filled, a second one (the ring's hole) is cut out.
    """
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    circle = np.stack([np.sin(turn), -np.cos(turn)], 1)
    match shape:
        case "circle":
            polygons = [circle]
        case "ring":
            polygons = [circle * 1.05, circle * 0.55]
        case "square":
            polygons = [0.88 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])]
        case "diamond":
            polygons = [np.array([(0, -1.2), (0.82, 0), (0, 1.2), (-0.82, 0)])]
        case "triangle":
            polygons = [1.25 * circle[::32]]
        case "star":
            tips = np.linspace(0, 2 * np.pi, 10, endpoint=False)
            reach = np.where(np.arange(10) % 2 == 0, 1.25, 0.5)
            polygons = [np.stack([np.sin(tips), -np.cos(tips)], 1) * reach[:, None]]
        case "cross":
            a, b = 0.33, 1.05
            corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
            corners += [(-x, -y) for x, y in corners]
            polygons = [np.array(corners)]
        case "heart":
            x = 16 * np.sin(turn) ** 3
            y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
            polygons = [np.stack([x, -y], 1) / 15.5]
        case _:
            raise ValueError(f"unknown shape {shape!r}; the shapes are {', '.join(SHAPES)}")
    centre = _centroid(polygons[0])
    return tuple(polygon - centre for polygon in polygons)


def _centroid(polygon: np.ndarray) -> np.ndarray:
    following = np.roll(polygon, -1, axis=0)
    cross = polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]
    return ((polygon + following) * cross[:, None]).sum(0) / (3 * cross.sum())


def coverage(shape: str, centre: tuple[float, float], radius: float, side: int) -> np.ndarray:
    """Anti-aliased coverage of one shape, float32 `[side, side]` in 0..1; centre and radius in pixels."""
    scale = OVERSAMPLING
    canvas = Image.new("L", (side * scale, side * scale))
    pen = ImageDraw.Draw(canvas)
    for polygon, ink in zip(outline(shape), (255, 0), strict=False):
        points = (polygon * radius + np.asarray(centre)) * scale - 0.5
        pen.polygon([tuple(point) for point in points], fill=ink)
    return np.asarray(canvas.reduce(scale), np.float32) / 255


def placement(scene: Scene, index: int) -> tuple[float, float, float]:
    """Centre x, centre y and radius of a thing before jitter, as shares of the side."""
    thing = scene.things[index]
    if len(scene.things) == 2:
        side = 1 if index == 0 else -1
        dx, dy = RELATIONS[scene.relation or "and"]
        return 0.5 + side * dx * PAIR_OFFSET, 0.5 + side * dy * PAIR_OFFSET, PAIR_RADIUS
    radius = SIZES[thing.size or "medium"]
    dx, dy = POSITIONS[thing.position or "in the center"]
    reach = 0.5 - 1.2 * radius - MARGIN
    return 0.5 + dx * reach, 0.5 + dy * reach, radius


def _tinted(colour: str, random: np.random.Generator, jitter: float) -> np.ndarray:
    return np.clip(np.array(COLOURS[colour]) + random.uniform(-8, 8, 3) * jitter, 0, 255)


def _ground(scene: Scene, side: int, random: np.random.Generator, jitter: float) -> np.ndarray:
    first = _tinted(scene.ground, random, jitter)
    if scene.pattern == "plain":
        return np.broadcast_to(first, (side, side, 3))
    second = _tinted(scene.second_ground or scene.ground, random, jitter)
    y, x = np.mgrid[0:side, 0:side] + 0.5
    if scene.pattern == "gradient":
        share = y / side
    elif scene.pattern == "striped":
        share = (y / side * 8).astype(int) % 2
    else:
        share = ((y / side * 8).astype(int) + (x / side * 8).astype(int)) % 2
    return first + (second - first) * share[..., None]


def draw(scene: Scene, random: np.random.Generator, side: int = 64, jitter: float = 1.0) -> np.ndarray:
    """Draw a scene as uint8 `[side, side, 3]`; `jitter` 0 draws the ideal picture."""
    picture = _ground(scene, side, random, jitter).astype(np.float32)
    for index, thing in enumerate(scene.things):
        x, y, radius = placement(scene, index)
        x, y = np.array([x, y]) + random.uniform(-0.022, 0.022, 2) * jitter
        radius *= 1 + random.uniform(-0.05, 0.05) * jitter
        alpha = coverage(thing.shape, (x * side, y * side), radius * side, side)[..., None]
        picture = picture + (_tinted(thing.colour, random, jitter) - picture) * alpha
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def contrast(colour: str, ground: str, second: str | None = None) -> float:
    """RGB distance of a colour from the segment between the ground's colours: 0 cannot be seen."""
    point, start = np.array(COLOURS[colour], float), np.array(COLOURS[ground], float)
    way = np.array(COLOURS[second or ground], float) - start
    share = np.clip((point - start) @ way / max(way @ way, 1e-9), 0, 1)
    return float(np.linalg.norm(point - start - share * way))


def random_scene(random: np.random.Generator, pairs: float = 0.3, patterned: float = 0.15) -> Scene:
    """Make up a scene: `pairs` is the share with two things, `patterned` that of grounds not plain.

    Small things are drawn twice as often as each other size, because they are the hardest to learn.
    """

    def pick(options: Sequence[T], chances: list[float] | None = None) -> T:
        return options[int(random.choice(len(options), p=chances))]

    colours = list(COLOURS)
    while True:
        ground, second, pattern = pick(colours), None, "plain"
        if random.random() < patterned:
            pattern, second = pick(PATTERNS[1:]), pick([c for c in colours if c != ground])
        pair = random.random() < pairs
        if pair:
            things = tuple(Thing(pick(colours), pick(SHAPES)) for _ in range(2))
        else:
            size = pick(["small", None, "medium", "large"], [0.4, 0.25, 0.1, 0.25])
            things = (Thing(pick(colours), pick(SHAPES), size, pick([None, *POSITIONS])),)
        if second and contrast(second, ground) < 90:
            continue
        if min(contrast(thing.colour, ground, second) for thing in things) < 60:
            continue
        return Scene(things, ground, pattern, second, pick(list(RELATIONS)) if pair else None)
