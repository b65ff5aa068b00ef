"""Nodes for pictures: what they keep bit for bit, what they change, and what they say when it cannot be done."""

from functools import lru_cache
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


def rgba(pixels: np.ndarray, alpha: float | np.ndarray) -> Image:
    planes = np.broadcast_to(np.float32(alpha), pixels.shape[:3])[..., None]
    return Image(np.concatenate([pixels, planes], -1))


def flat(value: float, width: int = 8, height: int = 8, batch: int = 1) -> Image:
    return Image(np.full((batch, height, width, 3), value, np.float32))


# Invert


def test_inverting_twice_is_the_identity():
    image = picture(8, 8)
    twice = run("Invert", image=run("Invert", image=image).image).image
    assert np.allclose(twice.pixels, image.pixels, rtol=0, atol=1e-7)


def test_inverting_keeps_transparency():
    image = rgba(picture(8, 8).pixels, half_mask(8, 8).alpha)
    inverted = run("Invert", image=image).image.pixels
    assert (inverted[..., 3] == image.pixels[..., 3]).all() and (inverted[..., :3] == 1 - image.pixels[..., :3]).all()


def test_a_mask_is_turned_inside_out():
    outputs = run("Invert", mask=half_mask(8, 8))
    assert (outputs.mask.alpha == half_mask(8, 8).alpha[..., ::-1]).all() and outputs.image is None


def test_inverting_nothing_is_told():
    with pytest.raises(ValueError, match="nothing to invert"):
        run("Invert")


# Resize, Crop, Pad


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resizing_keeps_the_batch_the_range_and_an_even_colour(method):
    resized = run("Resize", image=flat(0.25, 8, 6, batch=2), width=13, height=5, method=method).image
    assert resized.pixels.shape == (2, 5, 13, 3) and np.allclose(resized.pixels, 0.25, atol=1e-6)
    sharp = run("Resize", image=picture(8, 6), width=31, height=29, method=method).image.pixels
    assert sharp.min() >= 0 and sharp.max() <= 1


def test_resizing_to_the_same_size_changes_no_bit():
    assert (run("Resize", image=picture(8, 6), width=8, height=6).image.pixels == picture(8, 6).pixels).all()


def test_nearest_enlarges_by_repeating_pixels():
    image = picture(3, 2)
    resized = run("Resize", image=image, width=6, height=4, method="nearest").image
    assert (resized.pixels == image.pixels.repeat(2, 1).repeat(2, 2)).all()


def test_a_crop_is_the_rectangle_itself():
    image = picture(8, 6, batch=2)
    cropped = run("Crop", image=image, left=1, top=2, width=5, height=3).image
    assert (cropped.pixels == image.pixels[:, 2:5, 1:6]).all()


def test_a_crop_beyond_the_picture_is_told_with_both_sizes():
    with pytest.raises(ValueError, match="ends at 9, 6; the picture is 8 x 6"):
        run("Crop", image=picture(8, 6), left=4, width=5, height=6)


@pytest.mark.parametrize("fill", ["edge", "reflect", "colour"])
def test_padding_keeps_the_picture_bit_for_bit_and_marks_what_was_added(fill):
    image = picture(8, 6, batch=2)
    outputs = run("Pad", image=image, left=1, top=2, right=3, bottom=4, fill=fill)
    assert outputs.image.size == outputs.mask.size == (12, 12)
    assert (outputs.image.pixels[:, 2:8, 1:9] == image.pixels).all()
    assert (outputs.mask.alpha[:, 2:8, 1:9] == 0).all() and outputs.mask.alpha.sum() == 2 * (144 - 48)


def test_padding_with_a_colour_gives_that_colour_opaque():
    padded = run("Pad", image=rgba(flat(0).pixels, 0.5), left=2, fill="colour", colour="#ff0033").image.pixels
    assert np.allclose(padded[:, :, :2], [1, 0, 0.2, 1])


# Blend, Composite


@pytest.mark.parametrize(
    ("mode", "expected"), [("normal", 0.75), ("multiply", 0.375), ("screen", 0.875), ("difference", 0.25)]
)
def test_a_blend_combines_colours_by_its_mode(mode, expected):
    assert np.allclose(run("Blend", first=flat(0.5), second=flat(0.75), amount=1.0, mode=mode).image.pixels, expected)


def test_a_blend_of_amount_zero_is_the_first_picture_bit_for_bit():
    first, second = picture(8, 8, seed=1), picture(8, 8, seed=2)
    assert (run("Blend", first=first, second=second, amount=0.0).image.pixels == first.pixels).all()


def test_a_blend_lays_one_picture_over_a_whole_batch():
    assert np.allclose(run("Blend", first=flat(0, batch=3), second=flat(1)).image.pixels, np.full((3, 8, 8, 3), 0.5))


@pytest.mark.parametrize("mode", ["normal", "multiply", "screen", "difference"])
def test_a_blend_of_opaque_pictures_is_opaque(mode):
    outputs = run("Blend", first=rgba(flat(0.5).pixels, 1), second=flat(0.75), amount=1.0, mode=mode)
    assert (outputs.image.pixels[..., 3] == 1).all()


def test_a_composite_is_bit_exact_outside_and_inside_the_mask():
    base, overlay = picture(8, 8, seed=1), picture(8, 8, seed=2)
    mixed = run("Composite", base=base, overlay=overlay, mask=half_mask(8, 8)).image.pixels
    assert (mixed[:, :, :4] == base.pixels[:, :, :4]).all() and (mixed[:, :, 4:] == overlay.pixels[:, :, 4:]).all()


def test_a_half_mask_mixes_by_halves():
    mask = Mask(np.full((1, 8, 8), 0.5, np.float32))
    assert np.allclose(run("Composite", base=flat(0.2), overlay=flat(0.6), mask=mask).image.pixels, 0.4)


@pytest.mark.parametrize("node", ["Blend", "Composite"])
def test_pictures_of_different_sizes_are_told_with_both_sizes(node):
    names = ("first", "second") if node == "Blend" else ("base", "overlay")
    more = {"mask": half_mask(8, 8)} if node == "Composite" else {}
    with pytest.raises(ValueError, match="must have one size, got 8 x 8 and 4 x 6"):
        run(node, **dict(zip(names, (flat(0), flat(0, 4, 6)), strict=True)), **more)


def test_batches_that_do_not_go_together_are_told():
    with pytest.raises(ValueError, match="batches have 2 and 3 pictures"):
        run("Blend", first=flat(0, batch=2), second=flat(0, batch=3))


def test_a_mask_of_another_size_is_told_with_both_sizes():
    with pytest.raises(ValueError, match="the mask is 4 x 4, the picture 8 x 8"):
        run("Composite", base=flat(0), overlay=flat(1), mask=half_mask(4, 4))


def test_masks_that_do_not_go_with_a_batch_are_told():
    masks = Mask(np.ones((3, 8, 8), np.float32))
    with pytest.raises(ValueError, match=r"3 masks|masks.* 3|3 and 2|2 and 3"):
        run("Composite", base=flat(0, batch=2), overlay=flat(1, batch=2), mask=masks)


# Grid


def test_a_grid_holds_every_picture_of_every_batch_in_order_bit_for_bit():
    images = [picture(8, 6, batch=2, seed=1), picture(8, 6, seed=2)]
    sheet = run("Grid", images=images, gap=2).image
    assert sheet.size == (2 * 8 + 3 * 2, 2 * 6 + 3 * 2)
    spots = [sheet.pixels[0, top : top + 6, left : left + 8] for top, left in ((2, 2), (2, 12), (10, 2))]
    assert all((spot == p).all() for spot, p in zip(spots, (*images[0].pixels, *images[1].pixels), strict=True))


def test_a_grid_has_the_columns_that_are_asked_for():
    assert run("Grid", images=[flat(0, batch=6)], columns=6, gap=0).image.size == (48, 8)
    assert run("Grid", images=[flat(0, batch=6)], columns=1, gap=0).image.size == (8, 48)


@pytest.mark.parametrize("labels", [["one", "two"], ["one", "one", "two"]])
def test_labels_of_a_grid_are_one_per_image_or_one_per_picture(labels):
    images = [flat(0, 64, 64, batch=2), flat(0, 64, 64)]
    sheet = run("Grid", images=images, labels=labels, columns=3).image.pixels[0]
    below = sheet[64 + 4 :]
    assert (below[:, 4:68] < 1).any()
    assert (below[:, 4:68] == below[:, 72:136]).all() and (below[:, 72:136] != below[:, 140:204]).any()


def test_a_grid_with_too_few_labels_is_told():
    with pytest.raises(ValueError, match="there are 2 images with 3 pictures, but 1 labels"):
        run("Grid", images=[flat(0, batch=2), flat(0)], labels=["one"])
    with pytest.raises(ValueError, match="no pictures"):
        run("Grid", images=[])


def test_cells_of_a_grid_keep_the_aspect_and_enlarge_by_whole_pixels():
    image = picture(8, 6)
    sheet = run("Grid", images=[image], cell=16, gap=0).image
    assert (sheet.pixels == image.pixels.repeat(2, 1).repeat(2, 2)).all()
    assert run("Grid", images=[image], cell=4, gap=0).image.size == (4, 3)


def test_transparent_pictures_lie_on_the_background_of_a_grid():
    image = rgba(flat(1).pixels, half_mask(8, 8).alpha)
    sheet = run("Grid", images=[image], gap=0, background="#ff0000").image.pixels
    assert (sheet[:, :, :4] == [1, 0, 0]).all() and (sheet[:, :, 4:] == 1).all()


@pytest.mark.parametrize(("background", "ink"), [("#ffffff", 0), ("#000000", 1)])
def test_the_title_of_a_grid_stands_out_from_the_background(background, ink):
    sheet = run("Grid", images=[flat(0.5, 64, 64)], title="Title", background=background).image.pixels
    assert sheet.shape[1] > 72 and abs(sheet[:, :-68] - ink).min() < 0.1


def test_a_long_label_takes_three_lines_at_most_and_stays_in_its_cell():
    images = [flat(0, 64, 64, batch=2)]
    heights = [run("Grid", images=images, labels=["word " * n, "b"]).image.size[1] for n in (1, 100, 1000)]
    assert heights[0] < heights[1] == heights[2]
    sheet = run("Grid", images=images, labels=["w" * 500, ""]).image.pixels
    assert (sheet[:, 68:, 68:] == 1).all()


def test_a_grid_too_large_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="the sheet would be 4096 x 4096000; at most 64,000,000 pixels"):
        run("Grid", images=[flat(0, 1, 1000)], cell=4096, gap=0)


@pytest.mark.parametrize(
    ("node", "inputs"), [("Resize", {"width": 16384, "height": 16384}), ("Pad", {"left": 8192, "top": 8192})]
)
def test_a_picture_beyond_the_limit_is_refused_before_it_is_made(node, inputs):
    with pytest.raises(ValueError, match="pixels are more than"):
        run(node, image=picture(8, 8, batch=4), **inputs)
