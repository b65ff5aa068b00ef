"""Nodes for masks: which pixels they cover, exactly."""

from functools import lru_cache
from math import pi
from typing import Any

import numpy as np
import pytest

from graphengine import Image, Mask, Settings
from graphengine.compose import make_registry
from graphengine.testing import half_mask, picture, run_node


@lru_cache
def registry():
    return make_registry(Settings.load(plugin_folders=()))


def run(name: str, **inputs: Any) -> Any:
    info = registry().find(name)
    assert info
    return run_node(info.type, **inputs)


def box(size: int = 32, start: int = 10, end: int = 20) -> Mask:
    alpha = np.zeros((1, size, size), np.float32)
    alpha[:, start:end, start:end] = 1
    return Mask(alpha)


def colours(*rgb: tuple[float, ...]) -> Image:
    """A picture one pixel high, of these colours."""
    return Image(np.array([[rgb]], np.float32))


def test_a_rectangle_covers_exactly_its_pixels():
    alpha = run("RectangleMask", width=20, height=10, left=0.1, top=0.2, right=0.5, bottom=0.9).mask.alpha
    assert alpha.shape == (1, 10, 20)
    assert (alpha[:, 2:9, 2:10] == 1).all() and alpha.sum() == 7 * 8


def test_a_rectangle_from_edge_to_edge_covers_everything():
    assert (run("RectangleMask", left=0.0, top=0.0, right=1.0, bottom=1.0).mask.alpha == 1).all()


def test_an_ellipse_covers_a_share_of_pi_over_four_of_its_box():
    alpha = run("EllipseMask", width=200, height=100, left=0.1, top=0.1, right=0.9, bottom=0.9).mask.alpha
    assert alpha.sum() == pytest.approx(pi / 4 * 160 * 80, rel=0.01)


def test_an_ellipse_touches_its_box_and_is_symmetric():
    alpha = run("EllipseMask", width=64, height=32).mask.alpha[0]
    rows, columns = alpha.any(1).nonzero()[0], alpha.any(0).nonzero()[0]
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (8, 23, 16, 47)
    assert (alpha == alpha[::-1]).all() and (alpha == alpha[:, ::-1]).all()


@pytest.mark.parametrize("shape", ["RectangleMask", "EllipseMask"])
@pytest.mark.parametrize("edges", [{"left": 0.8}, {"top": 0.75}])
def test_an_empty_box_is_told(shape, edges):
    with pytest.raises(ValueError, match="the box is empty: right must lie beyond left"):
        run(shape, **edges)


@pytest.mark.parametrize(("channel", "expected"), [("red", 0.2), ("green", 0.4), ("blue", 0.6), ("alpha", 0.8)])
def test_a_channel_becomes_a_mask(channel, expected):
    mask = run("ChannelMask", image=colours((0.2, 0.4, 0.6, 0.8)), channel=channel).mask
    assert mask.alpha == np.float32(expected)


def test_the_alpha_of_a_picture_without_transparency_is_one():
    assert (run("ChannelMask", image=picture(8, 8), channel="alpha").mask.alpha == 1).all()


def test_luminance_weighs_green_most_and_white_fully():
    alpha = run("ChannelMask", image=colours((1, 1, 1), (0, 1, 0), (1, 0, 0), (0, 0, 1))).mask.alpha
    assert np.allclose(alpha, [[[1, 0.7152, 0.2126, 0.0722]]])


def test_a_colour_is_found_within_its_tolerance_only():
    image = colours((1, 0, 0), (0.95, 0, 0), (0.85, 0, 0), (0, 0, 1))
    assert run("ColourMask", image=image, colour="#ff0000", tolerance=0.1).mask.alpha.tolist() == [[[1, 1, 0, 0]]]
    assert run("ColourMask", image=image, colour="#FF0000", tolerance=0.0).mask.alpha.tolist() == [[[1, 0, 0, 0]]]


def test_growing_moves_every_edge_of_a_rectangle_by_the_pixels():
    assert (run("GrowMask", mask=box(), pixels=3).mask.alpha == box(32, 7, 23).alpha).all()


def test_shrinking_undoes_growing_on_a_rectangle():
    grown = run("GrowMask", mask=box(), pixels=5).mask
    assert (run("GrowMask", mask=grown, pixels=-5).mask.alpha == box().alpha).all()


def test_growing_by_nothing_changes_nothing():
    assert (run("GrowMask", mask=box(), pixels=0).mask.alpha == box().alpha).all()


def test_shrinking_away_leaves_an_empty_mask():
    assert not run("GrowMask", mask=box(), pixels=-5).mask.alpha.any()


def test_feathering_keeps_the_range_and_about_the_mean():
    mask = run("FeatherMask", mask=box(64, 20, 44), radius=3.0).mask
    assert mask.alpha.min() >= 0 and mask.alpha.max() <= 1
    assert mask.alpha.mean() == pytest.approx(box(64, 20, 44).alpha.mean(), rel=0.02)


def test_feathering_makes_a_soft_edge_that_is_half_way_at_the_old_one():
    alpha = run("FeatherMask", mask=half_mask(64, 16), radius=4.0).mask.alpha[0, 8]
    assert (np.diff(alpha) >= 0).all()
    assert (alpha[31] + alpha[32]) / 2 == pytest.approx(0.5, abs=0.01)
    assert alpha[28] == pytest.approx(0.19, abs=0.03)  # the normal distribution, 3.5 / 4 deviations off


def test_feathering_with_radius_zero_changes_nothing():
    soft = Mask(np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8))
    assert (run("FeatherMask", mask=soft, radius=0.0).mask.alpha == soft.alpha).all()


def test_every_mask_of_a_batch_is_feathered_by_itself():
    pair = Mask(np.concatenate([box().alpha, np.zeros_like(box().alpha)]))
    soft = run("FeatherMask", mask=pair, radius=2.0).mask.alpha
    assert soft.shape == (2, 32, 32) and not soft[1].any()
    assert (soft[0] == run("FeatherMask", mask=box(), radius=2.0).mask.alpha[0]).all()
