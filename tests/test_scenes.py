"""The drawn world: its language, its geometry and its chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from graphengine.training.scenes import (
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    caption,
    contrast,
    coverage,
    draw,
    outline,
    random_scene,
)


def ring(picture: np.ndarray) -> np.ndarray:
    """The outermost pixels of a picture, `[n, 3]`."""
    inside = np.zeros(picture.shape[:2], bool)
    inside[1:-1, 1:-1] = True
    return picture[~inside]


def test_a_caption_names_size_colour_shape_place_and_ground() -> None:
    scene = Scene((Thing("red", "circle", "large", "on the left"),), "blue")
    assert caption(scene) == "a large red circle on the left on a blue background"


def test_a_caption_says_an_before_a_vowel() -> None:
    scene = Scene((Thing("orange", "star"),), "orange")
    assert caption(scene) == "an orange star on an orange background"


def test_a_caption_joins_two_things_by_their_relation() -> None:
    scene = Scene((Thing("red", "ring"), Thing("orange", "heart")), "white", relation="above")
    assert caption(scene) == "a red ring above an orange heart on a white background"


@pytest.mark.parametrize(
    ("pattern", "ending"),
    [
        ("gradient", "a black to white gradient background"),
        ("striped", "a black and white striped background"),
        ("checkered", "a black and white checkered background"),
    ],
)
def test_a_caption_names_the_pattern_and_both_of_its_colours(pattern: str, ending: str) -> None:
    scene = Scene((Thing("green", "cross"),), "black", pattern, "white")
    assert caption(scene) == f"a green cross on {ending}"


def test_the_same_seed_makes_up_and_draws_the_same_scene() -> None:
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(20):
        scene, again = random_scene(one), random_scene(other)
        assert scene == again
        np.testing.assert_array_equal(draw(scene, one), draw(again, other))


def test_jitter_makes_two_pictures_of_one_scene_differ() -> None:
    scene, random = Scene((Thing("red", "circle"),), "blue"), np.random.default_rng(0)
    assert (draw(scene, random) != draw(scene, random)).any()


def test_without_jitter_a_picture_does_not_depend_on_chance() -> None:
    scene = Scene((Thing("red", "circle"),), "blue", "striped", "white")
    one, other = (draw(scene, np.random.default_rng(seed), jitter=0) for seed in (1, 2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_its_centroid_where_it_is_put(shape: str) -> None:
    mask = coverage(shape, (30.0, 34.0), 20.0, 64)
    places = np.indices(mask.shape) + 0.5
    y, x = (places * mask).sum((1, 2)) / mask.sum()
    assert (x, y) == pytest.approx((30.0, 34.0), abs=0.15)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_outline_of_a_shape_has_its_centroid_at_the_origin(shape: str) -> None:
    x, y = outline(shape)[0].T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    moments = ((x + np.roll(x, -1)) * cross).sum(), ((y + np.roll(y, -1)) * cross).sum()
    assert moments == pytest.approx((0, 0), abs=1e-9)


def test_an_unknown_shape_raises_and_names_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"unknown shape 'blob'.*circle"):
        outline("blob")


def test_one_thing_never_reaches_the_border() -> None:
    for shape, size, position in product(SHAPES, SIZES, POSITIONS):
        scene = Scene((Thing("red", shape, size, position),), "blue")
        border = ring(draw(scene, np.random.default_rng(0), jitter=0))
        assert (border == COLOURS["blue"]).all(), scene


def test_two_things_never_reach_the_border() -> None:
    for shape, relation in product(SHAPES, RELATIONS):
        scene = Scene((Thing("red", shape), Thing("white", shape)), "blue", relation=relation)
        border = ring(draw(scene, np.random.default_rng(0), jitter=0))
        assert (border == COLOURS["blue"]).all(), scene


def test_random_scenes_can_always_be_seen() -> None:
    random = np.random.default_rng(3)
    for _ in range(500):
        scene = random_scene(random, patterned=0.5)
        for thing in scene.things:
            assert contrast(thing.colour, scene.ground, scene.second_ground) >= 60


def test_random_patterns_have_two_colours_that_differ() -> None:
    random = np.random.default_rng(4)
    for scene in (random_scene(random, patterned=1.0) for _ in range(200)):
        assert scene.second_ground is not None
        assert contrast(scene.second_ground, scene.ground) >= 90


def test_random_scenes_have_a_relation_exactly_when_there_are_two_things() -> None:
    random = np.random.default_rng(6)
    for scene in (random_scene(random, pairs=0.5) for _ in range(200)):
        assert (scene.relation is not None) == (len(scene.things) == 2)
