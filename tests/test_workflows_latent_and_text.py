"""The workflows about the latent space, and about what becomes of a prompt."""

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from graphengine.nodes.latent_space import BlendLatents, CompareImages  # pyright: ignore[reportMissingImports]
from graphengine.nodes.text import ComparePrompts  # pyright: ignore[reportMissingImports]
from graphengine.testing import picture, run_node
from graphengine.training.scenes import Scene, Thing, draw
from graphengine.values import Conditioning, Latent, LatentSpace

SPACE = LatentSpace(4, 8, "test")


def noise(seed: int) -> Latent:
    return Latent(torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(seed)), SPACE)


@pytest.mark.parametrize("way", ["linear", "spherical"])
def test_the_ends_of_the_way_are_the_latents_themselves(way):
    first, second = noise(0), noise(1)
    for share, end in ((0.0, first), (1.0, second)):
        made = run_node(BlendLatents, first=first, second=second, share=share, way=way).latent
        assert torch.allclose(made.samples, end.samples, atol=1e-6)


def test_noise_halfway_on_the_sphere_is_still_noise_and_on_the_line_it_is_not():
    spread = {
        way: run_node(BlendLatents, first=noise(0), second=noise(1), share=0.5, way=way).latent.samples.std().item()
        for way in ("linear", "spherical")
    }
    assert spread["spherical"] == pytest.approx(1, abs=0.03)
    assert spread["linear"] == pytest.approx(0.5**0.5, abs=0.03)


def test_latents_of_other_sizes_or_models_are_not_blended():
    small = Latent(torch.zeros(2, 4, 8, 8), SPACE)
    with pytest.raises(ValueError, match="must be alike"):
        run_node(BlendLatents, first=noise(0), second=small)
    other = Latent(torch.zeros(2, 4, 16, 16), LatentSpace(4, 8, "other"))
    with pytest.raises(ValueError, match="different models"):
        run_node(BlendLatents, first=noise(0), second=other)


def test_a_difference_of_a_tenth_is_twenty_decibels():
    image = picture(8, 8)
    other = type(image)(np.clip(image.pixels, 0, 0.9) + np.float32(0.1))
    other = type(image)((image.pixels * 0 + 0.5).astype(np.float32))
    shifted = type(image)(other.pixels + np.float32(0.1))
    made = run_node(CompareImages, image=other, other=shifted)
    assert made.psnr == pytest.approx(20, abs=1e-3) and made.greatest == pytest.approx(0.1, abs=1e-6)


def test_a_picture_comes_back_from_the_latent_space_nearly_as_it_was(engine, workflows):
    scene = Scene((Thing("red", "circle", "large"),), "blue")
    engine.settings.input_folder.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(draw(scene, np.random.default_rng(0))).save(engine.settings.input_folder / "scene.png")
    document = workflows / "latent_space.json"
    made = engine.submit(document, {"image": "scene.png", "shares": [0.0, 1.0]}).result(120)
    assert made["psnr"] > 25


def test_words_beyond_the_limit_are_named(engine, workflows):
    long = "a red circle on a blue background, " * 5
    made = engine.submit(workflows / "text_anatomy.json", {"prompt": long}).result(60)
    assert "background" in made["cut"]
    assert "| cut |" in made["table"]
    short = engine.submit(workflows / "text_anatomy.json", {"prompt": "a red circle"}).result(60)
    assert short["cut"] == [] and "| cut |" not in short["table"]
    assert [line.split("|")[3].strip() for line in short["table"].splitlines()[3:6]] == [
        "a</w>",
        "red</w>",
        "circle</w>",
    ]


def test_prompts_that_differ_in_a_word_are_more_alike_than_others(engine, workflows):
    document = workflows / "text_anatomy.json"
    import json

    told = json.loads(document.read_text())
    told["outputs"]["similarities"] = {"from": "compare.similarities"}
    prompts = [
        "a red circle on a blue background",
        "A RED circle  on a blue background",
        "a red ring on a blue background",
        "a green heart above a pink cross on a yellow background",
    ]
    alike = np.array(engine.submit(told, {"prompts": prompts}).result(60)["similarities"]).reshape(4, 4)
    assert alike[0, 1] == pytest.approx(1, abs=1e-4)
    assert alike[0, 2] > alike[0, 3]


def test_one_prompt_is_not_compared():
    with pytest.raises(ValueError, match="wants two or more"):
        run_node(ComparePrompts, prompts=[Conditioning(torch.zeros(1, 4, 8), "x")])
