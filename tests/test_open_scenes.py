"""Prompts that leave open where things are: what is said of a scene, and what counts as right."""

import numpy as np
import pytest

from graphengine.training.few_step import open_scenes
from graphengine.training.open_scenes import SIDES, open_caption, settled
from graphengine.training.scenes import POSITIONS, RELATIONS, Scene, Thing, draw

ONE = Scene((Thing("red", "heart", "large", "on the left"),), "white")
TWO = Scene((Thing("green", "square"), Thing("orange", "ring")), "white", relation="above")


def drawn(*scenes: Scene) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.stack([draw(scene, random) for scene in scenes])


def test_where_things_are_and_how_large_is_not_told():
    assert open_caption(ONE) == "a red heart on a white background"
    assert open_caption(TWO) == "a green square and an orange ring on a white background"


def test_drawn_pictures_are_right_and_in_every_place():
    scenes = open_scenes(200, 0)
    found = settled(scenes, drawn(*scenes))
    assert found.share > 0.98
    assert set(found.places) == {*POSITIONS, *SIDES}
    assert found.spread == pytest.approx(4.5, abs=0.1)


@pytest.mark.parametrize(
    "other",
    [Scene((Thing("red", "heart", "small", "at the top"),), "white"), Scene((Thing("red", "heart"),), "white")],
)
def test_another_place_and_size_is_right_as_well(other):
    assert settled([ONE], drawn(other)).share == 1


@pytest.mark.parametrize("relation", [relation for relation in RELATIONS if relation != "and"])
def test_two_things_may_stand_in_any_way(relation):
    found = settled([TWO], drawn(Scene(TWO.things, "white", relation=relation)))
    assert found.share == 1 and found.places == {relation: 1}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (ONE, Scene((Thing("red", "circle", "large", "on the left"),), "white")),
        (ONE, Scene((Thing("blue", "heart", "large", "on the left"),), "white")),
        (ONE, Scene((Thing("red", "heart", "large", "on the left"),), "black")),
        (ONE, Scene((Thing("red", "heart"), Thing("red", "heart")), "white", relation="and")),
        (TWO, Scene((Thing("green", "square"),), "white")),
        (TWO, Scene((Thing("green", "square"), Thing("green", "square")), "white", relation="and")),
    ],
    ids=["shape", "colour", "ground", "twice", "one is missing", "one twice"],
)
def test_what_was_not_said_is_wrong(asked, shown):
    assert settled([asked], drawn(shown)).share == 0


def test_pictures_that_always_settle_alike_have_one_place():
    assert settled([ONE] * 5 + [TWO] * 5, drawn(*[ONE] * 5, *[TWO] * 5)).spread == 1
