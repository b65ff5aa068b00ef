"""Prompts that leave something open, which the picture has to settle: where a thing is and how large, or how two stand.

A prompt that says all has one picture, which a single call of a network nearly finds.  What takes steps is to settle on one
of many pictures, and what few steps cost is seen where there are many.  tiny itself draws what is left unsaid in one way:
in the middle, of medium size, side by side.  With the LoRA `tiny-open` the seed decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from graphengine.training.checker import Reading, facts, read
from graphengine.training.scenes import (
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    caption,
    contrast,
)

T = TypeVar("T")
SIDES = ("left of", "right of", "above", "below")
LEAST = 60
"""Contrast of a thing with the ground."""


def open_scene(random: np.random.Generator) -> Scene:
    """Make up a scene on a plain ground: one thing anywhere of any size, or two that stand in any way."""

    def pick(options: Sequence[T]) -> T:
        return options[int(random.integers(len(options)))]

    def coloured() -> Thing:
        return Thing(pick(list(COLOURS)), pick(SHAPES))

    while True:
        if random.random() < 0.5:
            things = coloured(), coloured()
            ground, relation = pick(list(COLOURS)), pick(SIDES)
        else:
            things = (replace(coloured(), size=pick(list(SIZES)), position=pick(list(POSITIONS))),)
            ground, relation = pick(list(COLOURS)), None
        if min(contrast(thing.colour, ground) for thing in things) >= LEAST:
            return Scene(things, ground, relation=relation)


def open_caption(scene: Scene) -> str:
    """What is said of a scene: all but where a thing is and how large, or how two stand."""
    return caption(_told(scene))


def _told(scene: Scene) -> Scene:
    things = tuple(replace(thing, size=None, position=None) for thing in scene.things)
    return replace(scene, things=things, relation=scene.relation and "and")


@dataclass(frozen=True)
class Settled:
    """What pictures of open prompts show: which of them are as was said, and how they settled the rest."""

    right: np.ndarray
    """bool `[n]`"""
    places: Counter[str]
    """Of those that are right, by place of one thing or side of the first of two."""

    @property
    def share(self) -> float:
        return float(self.right.mean())

    @property
    def spread(self) -> float:
        """How many places are in use: the exponential of their distribution's entropy, one thing and two apart."""
        found = []
        for places in (list(POSITIONS), list(SIDES)):
            counts = np.array([self.places[place] for place in places], float)
            shares = counts[counts > 0] / max(1.0, counts.sum())
            found.append(float(np.exp(-(shares * np.log(shares)).sum())))
        return float(np.mean(found))


def settled(scenes: Sequence[Scene], pictures: np.ndarray) -> Settled:
    """Read pictures, uint8 `[n, side, side, 3]`, of scenes of which only the open part was told."""
    readings = [read(picture) for picture in pictures]
    right = np.array([_shows(scene, reading) for scene, reading in zip(scenes, readings, strict=True)])
    pairs = zip(scenes, readings, right, strict=True)
    return Settled(right, Counter(_place(scene, reading) for scene, reading, holds in pairs if holds))


def _shows(scene: Scene, reading: Reading) -> bool:
    """Whether a picture shows what was said, and nothing else."""
    held = facts(_told(scene), reading)
    said = [held[fact] for fact in held if fact not in ("position", "relation", "all")]
    return all(said) and len(reading.things) == len(scene.things)


def _place(scene: Scene, reading: Reading) -> str:
    if len(scene.things) == 1:
        return reading.things[0].position
    first, second = sorted(reading.things, key=lambda seen: (seen.colour, seen.shape) != _named(scene.things[0]))
    x, y = np.array(first.centre) - second.centre
    return ("right of" if x > 0 else "left of") if abs(x) > abs(y) else ("below" if y > 0 else "above")


def _named(thing: Thing) -> tuple[str, str]:
    return thing.colour, thing.shape
