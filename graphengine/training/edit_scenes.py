"""Pairs of pictures, before and after an edit, that differ in nothing else.

A `View` is a scene of `scenes` with its jitter settled: where each thing stands, how large it is and how its
colour is tinted are values, not draws.  An edit changes one of them, so what it does not name stays to the pixel.

Glossary
    view        a picture as values, drawn by `draw_view` always alike
    edit        two views and the kind of difference between them; turned round, it is an edit as well
    index       which thing is changed: its place in the view that holds it (for `add`, the view after)
    combination the facts that an edit joins; a part of all combinations is never trained on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np

from graphengine.training.scenes import (
    COLOURS,
    PAIR_OFFSET,
    PAIR_RADIUS,
    PATTERNS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    contrast,
    coverage,
    placement,
    random_scene,
)

KINDS = ("colour", "shape", "background", "add", "remove", "move", "size", "identity")
OPPOSITE = {"add": "remove", "remove": "add"}
SINGLE = {"colour": 0.24, "shape": 0.2, "background": 0.16, "add": 0.08, "move": 0.17, "size": 0.15}
PAIRED = {"colour": 0.28, "shape": 0.24, "background": 0.14, "remove": 0.34}
"""How often each kind is drawn from views of one thing and of two; every edit is used turned round as well."""
LEAST_CONTRAST, SMALL_RADIUS, HELD_OUT = 60.0, 0.135, 9
"""RGB distance that can be seen; radius of a small one of two things; one combination in so many is held out."""
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Placed:
    """One thing where it stands: centre and radius as shares of the side, tint in levels of 0..255 added to its colour."""

    colour: str
    shape: str
    position: str
    size: str | None
    centre: tuple[float, float]
    radius: float
    tint: Triple


@dataclass(frozen=True)
class View:
    """A picture as values: one or two things on a ground, and the tints of the ground's two colours."""

    things: tuple[Placed, ...]
    ground: str
    pattern: str
    second_ground: str | None
    tints: tuple[Triple, Triple]

    def visible(self) -> bool:
        """Whether every thing can be told from the ground."""
        return all(contrast(it.colour, self.ground, self.second_ground) >= LEAST_CONTRAST for it in self.things)


@dataclass(frozen=True)
class Edit:
    """What lies between two views."""

    kind: str
    index: int
    before: View
    after: View

    @property
    def thing(self) -> Placed:
        """The changed thing as it was (for `add`, as it will be)."""
        return (self.after if self.kind == "add" else self.before).things[self.index]

    @property
    def changed(self) -> Placed:
        """The changed thing as it will be (for `remove`, as it was)."""
        return (self.before if self.kind == "remove" else self.after).things[self.index]

    def turned(self) -> Edit:
        """The way back."""
        return Edit(OPPOSITE.get(self.kind, self.kind), self.index, self.after, self.before)

    def nothing(self) -> Edit:
        """Leaving the picture as it was."""
        return Edit("identity", 0, self.before, self.before)


def combination(edit: Edit) -> str:
    """The facts that an edit joins, whatever else the picture shows: `colour circle red blue`."""
    was, will = edit.thing, edit.changed
    match edit.kind:
        case "colour":
            facts = [was.shape, was.colour, will.colour]
        case "shape":
            facts = [was.colour, was.shape, will.shape]
        case "background":
            facts = [was.colour, edit.before.ground, edit.after.ground]
        case "move":
            facts = [was.colour, was.shape, will.position]
        case "size":
            facts = [was.colour, was.shape, str(will.size)]
        case "add" | "remove":
            other = (edit.before if edit.kind == "add" else edit.after).things[0]
            facts = [was.colour, was.shape, other.colour, other.shape]
        case _:
            facts = [was.colour, was.shape, edit.before.ground]
    return " ".join([edit.kind, *facts])


def is_held_out(edit: Edit) -> bool:
    """Whether an edit is kept for measuring: its combination is never trained on, in any place, size or picture."""
    return crc32(combination(edit).encode()) % HELD_OUT == 0


def draw_view(view: View, side: int = 64) -> np.ndarray:
    """Draw a view as uint8 `[side, side, 3]`."""
    first = _tinted(view.ground, view.tints[0])
    second = _tinted(view.second_ground or view.ground, view.tints[1])
    y, x = np.mgrid[0:side, 0:side] + 0.5
    rows, columns = (y / side * 8).astype(int), (x / side * 8).astype(int)
    shares = {"plain": 0 * y, "gradient": y / side, "striped": rows % 2, "checkered": (rows + columns) % 2}
    picture = first + (second - first) * shares[view.pattern][..., None]
    for it in view.things:
        x, y = it.centre
        alpha = coverage(it.shape, (x * side, y * side), it.radius * side, side)[..., None]
        picture = picture + (_tinted(it.colour, it.tint) - picture) * alpha
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _tinted(colour: str, tint: Triple) -> np.ndarray:
    return np.clip(np.array(COLOURS[colour], float) + tint, 0, 255)


def _tint(random: np.random.Generator) -> Triple:
    red, green, blue = random.uniform(-8, 8, 3)
    return float(red), float(green), float(blue)


def settle(scene: Scene, random: np.random.Generator) -> View:
    """A view of a scene: its jitter is drawn once and kept."""
    things = []
    for index, thing in enumerate(scene.things):
        x, y, radius = placement(scene, index)
        position, size = thing.position or "in the center", thing.size or "medium"
        if len(scene.things) == 2:
            position, size = _side(x, y), None
            radius = SMALL_RADIUS if random.random() < 0.25 else PAIR_RADIUS
            size = "small" if radius == SMALL_RADIUS else None
        dx, dy = random.uniform(-0.022, 0.022, 2)
        scale = 1 + random.uniform(-0.05, 0.05)
        centre = float(x + dx), float(y + dy)
        things.append(Placed(thing.colour, thing.shape, position, size, centre, float(radius * scale), _tint(random)))
    tints = _tint(random), _tint(random)
    return View(tuple(things), scene.ground, scene.pattern, scene.second_ground, tints)


def _side(x: float, y: float) -> str:
    """The word for the side of a picture on which one of two things stands."""
    dx, dy = round((x - 0.5) / PAIR_OFFSET), round((y - 0.5) / PAIR_OFFSET)
    return next(word for word, place in POSITIONS.items() if place == (dx, dy))


def random_view(random: np.random.Generator, pairs: float = 0.5, patterned: float = 0.12) -> View:
    """Make up a view; two things differ in colour or in shape."""
    while True:
        view = settle(random_scene(random, pairs, patterned), random)
        if len({(it.colour, it.shape) for it in view.things}) == len(view.things):
            return view


def random_edit(view: View, random: np.random.Generator, kind: str | None = None) -> Edit | None:
    """Make up an edit of a view, of a kind or of any that suits it; None when this one would not be seen."""
    chances = PAIRED if len(view.things) == 2 else SINGLE
    kind = kind or str(random.choice([*chances], p=[*chances.values()]))
    index = int(random.integers(len(view.things)))
    if kind == "remove":
        return _removal(view, index)
    if kind == "add":
        return _addition(view, random)
    after = _ground_changed(view, random) if kind == "background" else _thing_changed(view, index, kind, random)
    edit = Edit(kind, index, view, after)
    distinct = len({(it.colour, it.shape) for it in after.things}) == len(after.things)
    return edit if distinct and after.visible() else None


def _removal(view: View, index: int) -> Edit:
    left = tuple(it for at, it in enumerate(view.things) if at != index)
    return Edit("remove", index, view, replace(view, things=left))


def _other(options: Sequence[str], than: str | None, random: np.random.Generator) -> str:
    left = [option for option in options if option != than]
    return left[int(random.integers(len(left)))]


def _addition(view: View, random: np.random.Generator) -> Edit | None:
    """A second thing on the other side, small beside one of medium size; None where there is no room."""
    known = view.things[0]
    dx, dy = (-share for share in POSITIONS[known.position])
    if len(view.things) == 2 or known.size == "large" or not (dx or dy):
        return None
    size = "small" if known.size == "medium" or random.random() < 0.25 else None
    radius = SMALL_RADIUS if size else PAIR_RADIUS
    jitter = random.uniform(-0.022, 0.022, 2)
    centre = float(0.5 + dx * PAIR_OFFSET + jitter[0]), float(0.5 + dy * PAIR_OFFSET + jitter[1])
    colour, shape = _other([*COLOURS], view.ground, random), _other(SHAPES, None, random)
    new = Placed(colour, shape, _side(*centre), size, centre, radius * random.uniform(0.95, 1.05), _tint(random))
    after = replace(view, things=(known, new))
    distinct = (colour, shape) != (known.colour, known.shape)
    return Edit("add", 1, view, after) if distinct and after.visible() else None


def _ground_changed(view: View, random: np.random.Generator) -> View:
    """Another ground: six times in seven a plain one."""
    ground, tints = _other([*COLOURS], view.ground, random), (_tint(random), _tint(random))
    if random.random() < 6 / 7:
        return replace(view, ground=ground, pattern="plain", second_ground=None, tints=tints)
    pattern, second = _other(PATTERNS, "plain", random), _other([*COLOURS], ground, random)
    while contrast(second, ground) < 90:
        second = _other([*COLOURS], ground, random)
    return replace(view, ground=ground, pattern=pattern, second_ground=second, tints=tints)


def _thing_changed(view: View, index: int, kind: str, random: np.random.Generator) -> View:
    was = view.things[index]
    match kind:
        case "colour":
            will = replace(was, colour=_other([*COLOURS], was.colour, random), tint=_tint(random))
        case "shape":
            will = replace(was, shape=_other(SHAPES, was.shape, random))
        case "move":
            will = _elsewhere(was, _other([*POSITIONS], was.position, random), was.size)
        case _:
            will = _elsewhere(was, was.position, _other([*SIZES], was.size, random))
    things = tuple(will if at == index else it for at, it in enumerate(view.things))
    return replace(view, things=things)


def _elsewhere(was: Placed, position: str, size: str | None) -> Placed:
    """A single thing at another position, or of another size at the same; its jitter stays."""

    def nominal(position: str, size: str | None) -> tuple[float, float, float]:
        return placement(Scene((Thing(was.colour, was.shape, size, position),), "white"), 0)

    x, y, radius = nominal(position, size)
    old_x, old_y, old_radius = nominal(was.position, was.size)
    centre = was.centre[0] + x - old_x, was.centre[1] + y - old_y
    return replace(was, position=position, size=size, centre=centre, radius=was.radius * radius / old_radius)
