"""Pictures from files and to files: levels, transparency, recipes, names, and what is saved again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nodes_for_tests import workflow
from PIL import Image as pillow

from graphengine import Context, Engine, Field, GraphError, Image, Node, NodeError, Ports, Settings
from graphengine.pictures import read_recipe
from graphengine.testing import half_mask, picture


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


def test_an_example_that_ships_is_found_from_any_folder_and_the_user_s_own_comes_first(engine):
    assert load(engine, "workflows/example.png")["image"].size == (64, 64)
    (engine.settings.input_folder / "workflows").mkdir()
    put(engine, "workflows/example.png", np.zeros((4, 6, 3), np.uint8))
    assert load(engine, "workflows/example.png")["image"].size == (6, 4)
    with pytest.raises(GraphError, match="lies outside"):
        load(engine, "workflows/../../secret.png")


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
