"""The embedded model does what prompts say, in every workflow that ships."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from graphengine import Engine, NodeError, Settings, Workflow
from graphengine.models.clip import ClipEncoder
from graphengine.models.source import EMBEDDED, Source
from graphengine.testing import settings
from graphengine.training.checker import facts, read
from graphengine.training.scenes import Scene, Thing, caption, draw, random_scene

PROMPTS = [
    Scene((Thing("red", "circle", "large"),), "blue"),
    Scene((Thing("yellow", "star", "small", "on the left"),), "black"),
    Scene((Thing("green", "heart"),), "white"),
    Scene((Thing("pink", "triangle", "large", "at the top"),), "gray"),
    Scene((Thing("orange", "ring", None, "on the right"),), "purple"),
    Scene((Thing("white", "cross", None, "at the bottom"),), "brown"),
    Scene((Thing("red", "circle"), Thing("blue", "square")), "white", relation="and"),
    Scene((Thing("blue", "star"), Thing("yellow", "diamond")), "green", relation="above"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    with Engine(settings=settings(folder)) as made:
        yield made


def levels(image):
    return (image.pixels[0] * 255).round().astype(np.uint8)


def save(engine, name, picture):
    pillow.fromarray(picture).save(engine.settings.input_folder / name)


@pytest.mark.parametrize("model", ["tiny", "tiny-edit"])
def test_the_model_knows_every_word_of_its_language_and_says_which_it_does_not(model):
    random = np.random.default_rng(0)
    scenes = [random_scene(random) for _ in range(300)]
    encoder = ClipEncoder(Source(EMBEDDED / model), "text_encoder", "tokenizer", "cpu", torch.float32)
    assert encoder.unknown(" ".join(map(caption, scenes))) == ()
    assert encoder.unknown("A Red, RED wombat; 3 wombats") == ("wombat", "wombats")


def test_prompts_become_pictures_of_what_they_say(engine, workflows):
    document = Workflow.load(workflows / "text_to_image.json")
    right = []
    for scene in PROMPTS:
        image = engine.submit(document, {"prompt": caption(scene), "seed": 5, "steps": 8}).result(120)["image"]
        right.append(facts(scene, read(levels(image)))["all"])
    assert sum(right) >= len(right) - 1


def test_another_seed_encodes_nothing_again(engine, workflows):
    document = Workflow.load(workflows / "text_to_image.json")
    engine.submit(document, {"prompt": "a red star on a white background", "steps": 4}).result(60)
    run = engine.submit(document, {"prompt": "a red star on a white background", "steps": 4, "seed": 9})
    run.result(60)
    planned = next(event for event in run.events() if event.event == "planned")
    assert planned.work == ["sample", "decode", "save"]


def test_a_batch_holds_the_pictures_of_its_seeds(engine, workflows):
    document = Workflow.load(workflows / "text_to_image.json")
    batch = engine.submit(document, {"batch": 2, "seed": 3, "steps": 6}).result(60)["image"]
    alone = engine.submit(document, {"batch": 1, "seed": 4, "steps": 6}).result(60)["image"]
    assert abs(batch.pixels[1] - alone.pixels[0]).max() < 1e-3


def test_another_size_works(engine, workflows):
    image = engine.submit(workflows / "text_to_image.json", {"width": 96, "height": 64, "steps": 4}).result(60)["image"]
    assert image.size == (96, 64)


def test_strength_zero_gives_the_round_trip_and_a_little_keeps_the_layout(engine, workflows):
    scene = Scene((Thing("red", "circle"), Thing("green", "square")), "blue", relation="and")
    save(engine, "start.png", draw(scene, np.random.default_rng(0)))
    document = Workflow.load(workflows / "image_to_image.json")
    inputs = {"image": "start.png", "prompt": caption(scene), "strength": 0.0}
    kept = levels(engine.submit(document, inputs).result(60)["image"]).astype(int)
    start = np.asarray(pillow.open(engine.settings.input_folder / "start.png")).astype(int)
    assert abs(kept - start).mean() < 4
    near = engine.submit(document, inputs | {"strength": 0.15}).result(60)["image"]
    assert facts(scene, read(levels(near)))["all"]


def test_image_to_image_follows_the_prompt(engine, workflows):
    scene = Scene((Thing("red", "circle", "large"),), "blue")
    save(engine, "red.png", draw(scene, np.random.default_rng(0)))
    wanted = Scene((Thing("yellow", "circle", "large"),), "purple")
    inputs = {"image": "red.png", "prompt": caption(wanted), "strength": 0.5}
    image = engine.submit(workflows / "image_to_image.json", inputs).result(60)["image"]
    assert facts(wanted, read(levels(image)))["all"]


def test_inpainting_changes_the_inside_and_not_one_pixel_outside(engine, workflows):
    before = Scene((Thing("red", "circle"), Thing("green", "square")), "blue", relation="and")
    after = Scene((Thing("red", "circle"), Thing("yellow", "star")), "blue", relation="and")
    picture = draw(before, np.random.default_rng(1))
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 34:] = 255
    save(engine, "before.png", picture)
    save(engine, "mask.png", mask)
    inputs = {"image": "before.png", "mask": "mask.png", "prompt": caption(after)}
    image = levels(engine.submit(workflows / "inpaint.json", inputs).result(60)["image"])
    assert (image[:, :34] == picture[:, :34]).all()
    assert facts(after, read(image))["both"]


def test_a_mask_of_another_size_is_refused(engine, workflows):
    save(engine, "before.png", np.zeros((64, 64, 3), np.uint8))
    save(engine, "small.png", np.full((32, 32), 255, np.uint8))
    with pytest.raises(NodeError, match="the mask is 32 x 32, the picture 64 x 64"):
        engine.submit(workflows / "inpaint.json", {"image": "before.png", "mask": "small.png"}).result(60)


def test_an_empty_mask_is_refused(engine, workflows):
    save(engine, "before.png", np.zeros((64, 64, 3), np.uint8))
    save(engine, "none.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(NodeError, match="the mask is empty"):
        engine.submit(workflows / "inpaint.json", {"image": "before.png", "mask": "none.png"}).result(60)


def test_a_size_that_the_vae_cannot_make_gets_a_proposal(engine, workflows):
    with pytest.raises(NodeError, match="width 60 is no multiple of 8; try 64"):
        engine.submit(workflows / "text_to_image.json", {"width": 60}).result(60)


def test_guidance_without_a_negative_prompt_says_what_to_do(engine, workflows):
    document = Workflow.load(workflows / "text_to_image.json")
    spec = document.nodes["sample"]
    del spec.inputs["negative"]
    with pytest.raises(NodeError, match="link `negative`, or set guidance to 1"):
        engine.submit(document).result(60)


@pytest.mark.parametrize(
    "name", ["euler", "euler_ancestral", "heun", "ddim", "ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde", "lms", "unipc"]
)
def test_every_sampler_draws_the_prompt(engine, workflows, name):
    document = Workflow.load(workflows / "text_to_image.json").with_inputs({("sample", "sampler"): name})
    scene = PROMPTS[0]
    image = engine.submit(document, {"prompt": caption(scene), "seed": 1}).result(60)["image"]
    assert facts(scene, read(levels(image)))["colour"] and facts(scene, read(levels(image)))["background"]


def test_cancel_lands_inside_the_sampler(engine, workflows):
    run = engine.submit(workflows / "text_to_image.json", {"steps": 1000, "seed": 77})
    for event in run.events():
        if event.event == "node_progress" and event.node == "sample" and event.done >= 2:
            run.cancel()
            break
    assert [event.event for event in run.events()][-1] == "run_cancelled"
    assert max(event.done for event in run.events() if event.event == "node_progress") < 100


def test_guidance_can_be_limited_and_rescaled(engine, workflows):
    document = Workflow.load(workflows / "text_to_image.json").document()
    document["nodes"]["guide"] = {
        "type": "Guidance",
        "inputs": {"scale": 4.0, "rescale": 0.7, "start": 0.1, "end": 0.8},
    }
    document["nodes"]["sample"]["inputs"]["guidance"] = {"from": "guide.guidance"}
    del document["inputs"]["guidance"]
    image = engine.submit(document, {"prompt": caption(PROMPTS[2])}).result(60)["image"]
    assert facts(PROMPTS[2], read(levels(image)))["all"]


def test_the_checkpoint_is_small_and_loads_in_diffusers(engine, monkeypatch):
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from graphengine.models import checkpoint

    folder = checkpoint.find("tiny", Settings()).folder
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 24e6
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    scene = PROMPTS[0]
    generator = torch.Generator().manual_seed(0)
    made = pipeline(
        caption(scene), num_inference_steps=20, guidance_scale=3.0, generator=generator, output_type="np"
    ).images[0]
    assert facts(scene, read((made * 255).round().astype(np.uint8)))["all"]
