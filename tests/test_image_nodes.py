"""Nodes for pictures: what they keep bit for bit, what they change, and what they say when it cannot be done."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nodes_for_tests import workflow
from PIL import Image as pillow

from graphengine import Context, Engine, Field, GraphError, Image, Mask, Node, NodeError, Ports, Settings
from graphengine.compose import make_registry
from graphengine.pictures import read_recipe
from graphengine.testing import half_mask, picture, run_node


class Pictures(Node):
    """Pictures of noise, as many as there are seeds: as one batch, and as a list."""

    seeds: list[int] = Field([1], description="one each")

    class Outputs(Ports):
        image: Image
        images: list[Image]

    def run(self, ctx: Context) -> Outputs:
        images = [picture(6, 4, seed=seed) for seed in self.seeds]
        batch = np.concatenate([image.pixels for image in images])
        return self.Outputs(image=Image(batch), images=images)


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


@pytest.fixture
def engine(tmp_path):
    (tmp_path / "in").mkdir()
    place = Settings.load(
        cache_folder=tmp_path / "cache",
        output_folder=tmp_path / "out",
        input_folder=tmp_path / "in",
        plugin_folders=(),
        device="cpu",
    )
    with Engine(nodes=[Pictures], settings=place) as made:
        yield made


def put(engine: Engine, name: str, levels: np.ndarray, **options: Any) -> None:
    pillow.fromarray(levels).save(engine.settings.input_folder / name, **options)


def load(engine: Engine, name: str) -> dict[str, Any]:
    made = workflow({"load": ("LoadImage", {"file": name})}, {"image": "load.image", "mask": "load.mask"})
    return engine.submit(made).result(30)


def save(engine: Engine, seeds: list[int], port: str = "image", **inputs: Any) -> list[Any]:
    nodes = {"make": ("Pictures", {"seeds": seeds}), "save": ("SaveImage", {"image": f"@make.{port}"} | inputs)}
    return engine.submit(workflow(nodes, {"files": "save.files"})).result(30)["files"]


def written(engine: Engine) -> list[str]:
    return sorted(path.name for path in engine.settings.output_folder.glob("**/*.*"))


# LoadImage


def test_a_picture_is_loaded_with_its_levels_exactly(engine):
    levels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    put(engine, "a.png", levels)
    outputs = load(engine, "a.png")
    assert (outputs["image"].pixels[0] == levels.astype(np.float32) / 255).all()
    assert (outputs["mask"].alpha == 1).all()


def test_transparency_is_loaded_as_a_mask_of_what_is_opaque(engine):
    levels = np.zeros((4, 6, 4), np.uint8)
    levels[:, 3:, 3] = 255
    put(engine, "a.png", levels)
    outputs = load(engine, "a.png")
    assert outputs["image"].pixels.shape == (1, 4, 6, 3)
    assert (outputs["mask"].alpha == half_mask(6, 4).alpha).all()


def test_a_picture_taken_with_a_turned_camera_is_loaded_upright(engine):
    levels = np.zeros((4, 6, 3), np.uint8)
    levels[0, 0] = 255
    exif = pillow.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    put(engine, "a.png", levels, exif=exif)
    pixels = load(engine, "a.png")["image"].pixels
    assert pixels.shape == (1, 6, 4, 3)
    assert (pixels[0, 0, 3] == 1).all() and pixels.sum() == 3


def test_a_grey_picture_of_16_bits_keeps_its_brightness(engine):
    put(engine, "a.png", np.array([[0, 32768, 65535]], np.uint16))
    pixels = load(engine, "a.png")["image"].pixels
    assert np.allclose(pixels[0, 0, :, 0], [0, 0.5, 1], atol=0.01)


def test_a_missing_picture_is_told_before_anything_runs_with_the_nearest_name(engine):
    put(engine, "portrait.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(GraphError, match=r"load: there is no image 'portrat\.png'.*Did you mean portrait\.png"):
        load(engine, "portrat.png")


def test_a_picture_outside_the_input_folder_is_refused(engine):
    with pytest.raises(GraphError, match="lies outside the folder"):
        load(engine, "../secret.png")


def test_a_picture_that_changed_on_disk_is_loaded_again(engine):
    put(engine, "a.png", np.zeros((2, 2, 3), np.uint8))
    assert load(engine, "a.png")["image"].pixels.max() == 0
    put(engine, "a.png", np.full((3, 3, 3), 255, np.uint8))
    assert load(engine, "a.png")["image"].pixels.min() == 1


def test_a_text_that_is_no_picture_is_told_with_a_sentence(engine):
    (engine.settings.input_folder / "a.png").write_text("hello")
    with pytest.raises(NodeError, match=r"load: LoadImage failed: a\.png is no picture; PNG, JPEG, WEBP can be read\."):
        load(engine, "a.png")


def test_a_file_name_may_come_from_another_node(engine):
    put(engine, "a.png", np.zeros((2, 3, 3), np.uint8))
    nodes = {"name": ("Text", {"text": "a.png"}), "load": ("LoadImage", {"file": "@name.text"})}
    assert engine.submit(workflow(nodes, {"image": "load.image"})).result(30)["image"].size == (3, 2)


# SaveImage


def test_saved_files_are_numbered_on(engine):
    save(engine, [1])
    save(engine, [2])
    assert written(engine) == ["image_00001.png", "image_00002.png"]


def test_a_saved_picture_has_the_levels_of_the_picture(engine):
    [file] = save(engine, [1])
    with pillow.open(file.path) as read:
        assert (np.asarray(read) == (picture(6, 4, seed=1).pixels[0] * 255).round()).all()


def test_a_name_may_lie_in_a_subfolder_and_not_outside(engine):
    [file] = save(engine, [1], name="cats/red")
    assert Path(file.path).relative_to(engine.settings.output_folder.resolve()).as_posix() == "cats/red_00001.png"
    with pytest.raises(GraphError, match=r"save: .*lies outside the folder"):
        save(engine, [1], name="../red")


def test_a_saved_picture_carries_the_recipe_that_made_it(engine):
    [file] = save(engine, [7])
    recipe = read_recipe(Path(file.path))
    assert recipe["workflow"]["nodes"]["make"] == {"type": "Pictures", "inputs": {"seeds": [7]}}
    assert recipe["node"] == "save" and recipe["index"] == 0


def test_the_recipe_in_a_picture_makes_the_same_picture_again(engine):
    [file] = save(engine, [7])
    recipe = read_recipe(Path(file.path))
    Path(file.path).unlink()
    [again] = engine.submit(recipe["workflow"]).result(30)["files"]
    assert again.digest == file.digest


def test_an_identical_second_run_saves_nothing_new(engine):
    first = save(engine, [1, 2])
    assert save(engine, [1, 2]) == first
    assert written(engine) == ["image_00001.png", "image_00002.png"]


def test_a_deleted_file_is_saved_again(engine):
    [file] = save(engine, [1])
    Path(file.path).unlink()
    [again] = save(engine, [1])
    assert written(engine) == [Path(again.path).name] and again.digest == file.digest


def test_a_file_that_was_changed_by_hand_is_left_alone_and_saved_again_beside_it(engine):
    [file] = save(engine, [1])
    Path(file.path).write_bytes(b"mine")
    save(engine, [1])
    assert written(engine) == ["image_00001.png", "image_00002.png"]
    assert Path(file.path).read_bytes() == b"mine"


def test_a_batch_is_saved_as_one_file_per_picture_each_with_its_place(engine):
    files = save(engine, [1, 2, 3])
    assert [read_recipe(Path(file.path))["index"] for file in files] == [0, 1, 2]


def test_a_list_of_pictures_is_saved_once_however_often_it_runs(engine):
    first = save(engine, [1, 2], "images")
    assert save(engine, [1, 2], "images") == first
    assert written(engine) == ["image_00001.png", "image_00002.png"]


def test_a_longer_sweep_saves_only_the_new_picture(engine):
    def sweep(count):
        nodes = {
            "make": ("Pictures", {}),
            "sizes": ("Seed", {"seed": 1, "count": count}),
            "resize": ("Resize", {"image": "@make.image", "width": "@sizes.seeds", "height": 4}),
            "save": ("SaveImage", {"image": "@resize.image"}),
        }
        engine.submit(workflow(nodes)).result(30)

    sweep(2)
    sweep(3)
    assert written(engine) == ["image_00001.png", "image_00002.png", "image_00003.png"]


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
