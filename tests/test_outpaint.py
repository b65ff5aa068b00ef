"""Large pictures are painted window by window, and pictures go on beyond their edges; known pixels stay to the bit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from graphengine import Engine, NodeError
from graphengine.diffusion.resampling import repeated
from graphengine.diffusion.samplers import euler
from graphengine.diffusion.sigmas import NoiseSchedule, sigma_schedule
from graphengine.testing import settings
from graphengine.training.checker import read
from graphengine.training.scenes import Scene, Thing, draw
from graphengine.windows import Window, windows

GROUND = Scene((Thing("red", "square", "small", "on the left"),), "green")
DRAWN = draw(GROUND, np.random.default_rng(2))


def unknown(width, height, known):
    """All but a window is unknown, bool `[height, width]`."""
    made = np.ones((height, width), bool)
    known.of(made[None])[...] = False
    return made


def test_windows_go_on_from_what_is_known_and_leave_nothing_out():
    left = unknown(128, 128, Window(32, 32, 64, 64))
    count = 0
    for window in windows(left, 64, 0.25):
        part = window.of(left[None])
        assert 0 < part.mean() <= 0.25 and part.shape == (1, 64, 64)
        part[...] = False
        count += 1
    assert not left.any() and 9 < count < 40


def test_a_side_takes_as_many_windows_as_it_has_steps():
    made = list(windows(unknown(104, 64, Window(0, 0, 64, 64)), 64, 0.25))
    assert [window.left for window in made] == [16, 32, 40] and all(window.top == 0 for window in made)


def test_a_small_hole_takes_one_window():
    hole = ~unknown(256, 256, Window(100, 90, 20, 20))
    assert len(list(windows(hole, 64, 0.25))) == 1


def test_a_picture_smaller_than_a_window_is_one_window():
    assert list(windows(np.ones((48, 32), bool), 64, 0.25)) == [Window(0, 0, 32, 48)]


def test_where_nothing_is_known_all_is_painted_in_the_end():
    left = np.ones((128, 160), bool)
    for window in windows(left, 64, 0.25):
        window.of(left[None])[...] = False
    assert not left.any()


# The workflow


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "workflows").mkdir()
    pillow.fromarray(DRAWN).save(folder / "picture.png")
    pillow.fromarray(DRAWN).save(folder / "workflows" / "example.png")
    with Engine(settings=settings(folder)) as made:
        yield made


def outpainted(engine, workflows, **inputs):
    given = {"image": "picture.png", "steps": 12, "repeats": 2} | inputs
    image = engine.submit(workflows / "outpaint.json", given).result(60)["image"]
    return (image.pixels[0] * 255).round().astype(np.uint8)


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_the_picture_goes_on_beyond_a_side_and_is_itself_unchanged(engine, workflows, side):
    border = dict.fromkeys(("left", "top", "right", "bottom"), 0) | {side: 16}
    made = outpainted(engine, workflows, **border)
    assert made.shape == (64 + border["top"] + border["bottom"], 64 + border["left"] + border["right"], 3)
    inside = made[border["top"] :, border["left"] :][:64, :64]
    assert (inside == DRAWN).all()
    square = made[-64:, :64] if side in ("left", "bottom") else made[:64, -64:]
    assert read(np.ascontiguousarray(square)).ground == "green"


def test_two_sides_at_once_and_beyond_a_window(engine, workflows):
    made = outpainted(engine, workflows, left=24, right=0, bottom=8, steps=4)
    assert made.shape == (72, 88, 3) and (made[:64, 24:] == DRAWN).all()


def test_another_seed_paints_otherwise_and_the_same_seed_alike(engine, workflows):
    first, again, other = (outpainted(engine, workflows, right=16, seed=seed, steps=4) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ({"border": {"right": 0}}, "the mask is empty"),
        ({"paint": {"mask": {"from": "picture.mask"}}}, "the mask is 64 x 64, the picture 80 x 64"),
        ({"paint": {"window": 60}}, "a window of 60 pixels is no multiple of 8"),
        ({"paint": {"guidance": 3.0, "negative": None}}, "needs a negative prompt"),
    ],
)
def test_what_does_not_go_together_is_told_in_a_sentence(engine, workflows, nodes, sentence):
    document = json.loads((workflows / "outpaint.json").read_text())
    for node, inputs in nodes.items():
        document["nodes"][node]["inputs"] |= inputs
    with pytest.raises(NodeError, match=sentence):
        engine.submit(document).result(60)


# Steps taken again


def test_steps_taken_again_draw_from_the_same_distribution():
    deviation, schedule = 0.5, NoiseSchedule.linear()
    sigmas = sigma_schedule("karras", schedule, 200)
    generator = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(20_000, generator=generator)

    def denoise(x, sigma):  # exact for normal data
        return x * deviation**2 / (deviation**2 + sigma**2)

    made = noise() * float(sigmas[0])
    steps = list(repeated(euler, 3)(denoise, made, sigmas, noise))
    assert [step.index for step in steps] == list(range(200))
    assert abs(float(steps[-1].x.std()) / deviation - 1) < 0.05


@pytest.mark.parametrize("times", [1, 3])
def test_every_step_but_the_last_is_taken_as_often_as_asked(times):
    calls = []

    def denoise(x, sigma):
        calls.append(float(sigma))
        return x * 0

    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0])
    list(repeated(euler, times)(denoise, torch.ones(2), sigmas, lambda: torch.zeros(2)))
    assert calls == [4.0] * times + [2.0] * times + [1.0]
