"""The workflows that go on with a latent, larger or with another model, and those that need a picture beside it."""

import json

import numpy as np
import picture_models as models
import pytest
import torch
from families import stable_diffusion_xl
from families.harness import CONTROL, LIMIT, NEGATIVE, OTHER, PROMPT, SEED, STEPS, error, generator
from PIL import Image

from graphengine import Engine, NodeError
from graphengine.diffusion.flow import FlowSchedule
from graphengine.diffusion.sigmas import NoiseSchedule
from graphengine.models import checkpoint
from graphengine.models.family import DenoiserAdapter
from graphengine.models.sampling import Request, sample
from graphengine.nodes.latent import ResizeLatent  # pyright: ignore[reportMissingImports]
from graphengine.testing import half_mask, run_node, settings
from graphengine.training.checker import facts, read
from graphengine.training.scenes import Scene, Thing, caption
from graphengine.values import Conditioning, Guider, Latent, LatentSpace

SPACE = LatentSpace(4, 8, "test")


def drawn(folder, file, inputs, *outputs):
    own = settings(folder).model_copy(update={"model_folders": (folder,)})
    document = json.loads(file.read_text())
    document["outputs"] |= {name: {"from": f"{name}.latent"} for name in outputs}
    with Engine(settings=own, cached=False) as engine:
        return engine.submit(document, inputs).result(60)


# Larger


def test_an_enlarged_picture_still_shows_what_the_prompt_says(engine, workflows):
    scenes = [
        Scene((Thing("brown", "cross"),), "gray"),
        Scene((Thing("white", "cross", None, "on the right"),), "cyan"),
        Scene((Thing("red", "heart"), Thing("cyan", "circle")), "green", relation="above"),
    ]
    file, shown = workflows / "hires.json", []
    for scene in scenes:
        image = engine.submit(file, {"prompt": caption(scene), "seed": 7}).result(60)["image"]
        assert image.size == (96, 96)
        shown.append(facts(scene, read(np.asarray(image.pil()[0].resize((64, 64)))))["all"])
    assert shown == [True] * 3


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_a_latent_of_one_value_stays_so_at_another_size(method):
    latent = Latent(torch.full((2, 4, 8, 6), 0.5), SPACE)
    made = run_node(ResizeLatent, latent=latent, width=96, height=80, method=method).latent
    assert made.samples.shape == (2, 4, 10, 12) and made.space == SPACE
    assert torch.allclose(made.samples, torch.tensor(0.5))


def test_a_latent_is_resized_to_multiples_only_and_without_a_mask():
    latent = Latent(torch.zeros(1, 4, 8, 8), SPACE)
    with pytest.raises(ValueError, match="width 100 is no multiple of 8; try 96"):
        run_node(ResizeLatent, latent=latent, width=100, height=80)
    with pytest.raises(ValueError, match="has a mask"):
        run_node(ResizeLatent, latent=Latent(latent.samples, SPACE, half_mask()), width=96, height=80)


# In parts


class Curve(DenoiserAdapter):
    """A smooth function in place of a network."""

    device = "cpu"

    def __init__(self, schedule):
        self.schedule = schedule

    def denoise(self, x, sigma, prompts):
        return torch.tanh(x) / (1 + sigma) + 0.1 * prompts.features.mean()


def sampled(schedule, latent, name="euler", start=0.0, stop=1.0, mask=None):
    prompt = Conditioning(torch.ones(1, 3, 2), "test")
    request = Request(prompt, None, Guider(1.0), SEED, 10, name, "simple", 1.0, start, stop)
    return sample(Curve(schedule), Latent(latent, SPACE, mask), request, lambda *told: None)


@pytest.mark.parametrize("schedule", [NoiseSchedule.scaled_linear(), FlowSchedule(3.0)], ids=["noise", "flow"])
@pytest.mark.parametrize("name", ["euler", "heun", "ddim", "euler_ancestral", "ddpm", "lcm"])
def test_two_parts_of_a_run_make_the_whole(schedule, name):
    zeros = torch.zeros(2, 4, 6, 6)
    whole = sampled(schedule, zeros, name)
    noisy = sampled(schedule, zeros, name, stop=0.6)
    assert error(noisy, whole) > CONTROL
    assert error(sampled(schedule, noisy, name, start=0.6), whole) < LIMIT


def test_a_part_without_a_step_and_a_masked_part_are_refused():
    schedule, zeros = NoiseSchedule.scaled_linear(), torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"no step lies between start 0\.61 and stop 0\.62 of 10 steps"):
        sampled(schedule, zeros, start=0.61, stop=0.62)
    with pytest.raises(ValueError, match="what it was before is not known"):
        sampled(schedule, zeros, start=0.5, mask=half_mask())


def test_a_sampler_that_stops_before_it_starts_is_refused(engine, workflows):
    document = json.loads((workflows / "text_to_image.json").read_text())
    document["nodes"]["sample"]["inputs"] |= {"start": 0.5, "stop": 0.5}
    with pytest.raises(NodeError, match=r"must stop \(0\.5\) after it starts \(0\.5\)"):
        engine.submit(document).result(60)


def test_sdxl_and_its_refiner_draw_what_diffusers_draws_with_both(tmp_path, workflows, monkeypatch):
    monkeypatch.setitem(checkpoint.AUTOENCODERS, ("AutoencoderKL", 4, models.SCALE_XL, 0.0, 16), "small")
    base = models.quiet(models.seeded(stable_diffusion_xl.base, tmp_path / "base"))
    refiner = models.quiet(models.seeded(stable_diffusion_xl.refiner, tmp_path / "refiner"))
    shared = {"negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    with torch.no_grad():
        noisy = base(PROMPT, height=64, width=64, denoising_end=0.5, generator=generator(), **shared).images
        theirs = refiner(PROMPT, image=noisy, denoising_start=0.5, **shared).images
    inputs = {
        "prompt": PROMPT,
        "negative": NEGATIVE,
        "seed": SEED,
        "steps": STEPS,
        "guidance": 3.0,
        "handover": 0.5,
        "width": 64,
        "height": 64,
        "checkpoint": "base",
        "refiner": "refiner",
    }
    document = json.loads((workflows / "stable_diffusion_xl_refiner.json").read_text())
    for node in ("sample", "refine"):
        document["nodes"][node]["inputs"]["sampler"] = "euler"
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(document))
    ours = drawn(tmp_path, file, inputs, "refine")["refine"].samples
    print(f"latents {error(ours, theirs):.1e}")
    assert error(ours, theirs) < LIMIT
    for change in ({"prompt": OTHER}, {"handover": 0.75}, {"refiner": "base"}):
        assert error(drawn(tmp_path, file, inputs | change, "refine")["refine"].samples, theirs) > CONTROL


# With a picture beside


def test_inpainting_by_a_model_of_its_own_changes_not_one_pixel_outside(tmp_path, workflows):
    models.seeded(models.inpainting, tmp_path / "model")
    picture, mask = models.pictures(tmp_path)
    inputs = {"checkpoint": "model", "image": "picture.png", "mask": "mask.png", "steps": STEPS}
    image = drawn(tmp_path, workflows / "inpaint_model.json", inputs)["image"]
    outside, inside = np.asarray(mask) == 0, np.asarray(mask) == 255
    before, after = np.asarray(picture, np.float32) / 255, image.pixels[0]
    assert (after[outside] == before[outside]).all()
    assert abs(after[inside] - before[inside]).mean() > 0.1


def test_editing_by_an_instruction_follows_the_instruction_and_the_picture(tmp_path, workflows):
    models.seeded(models.instructed, tmp_path / "model")
    picture, _ = models.pictures(tmp_path)
    Image.fromarray(np.ascontiguousarray(np.asarray(picture)[::-1])).save(tmp_path / "other.png")
    inputs = {"checkpoint": "model", "image": "picture.png", "steps": 2}
    file = workflows / "instruct_edit_model.json"
    changes = ({}, {"prompt": OTHER}, {"image": "other.png"}, {"guidance": 3.0}, {"image_guidance": 3.0})
    made = [drawn(tmp_path, file, inputs | change)["image"] for change in changes]
    assert made[0].size == (models.WIDTH, models.HEIGHT)
    for image in made[1:]:
        assert abs(image.pixels - made[0].pixels).max() > 0
