"""Networks that read a picture beside the latent draw what diffusers' pipelines draw, and refuse what does not fit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import picture_models as models
import pytest
import torch
from families.harness import CONTROL, LIMIT, NEGATIVE, OTHER, PROMPT, SEED, STEPS, error, generator
from PIL import Image

from graphengine import Engine, NodeError
from graphengine.diffusion.guidance import ClassifierFree, Pictured, Plain
from graphengine.models.checkpoint import find
from graphengine.nodes.inpaint import InpaintLatent  # pyright: ignore[reportMissingImports]
from graphengine.testing import half_mask, picture, run_node, settings

SAMPLING = {"sampler": "euler", "schedule": "simple"}


def run(folder: Path, workflow: Path, inputs: dict, sample: dict | None = None) -> torch.Tensor:
    """The latents of a workflow that ships, with its checkpoint `model` in a folder."""
    document = json.loads(workflow.read_text())
    document["nodes"]["sample"]["inputs"] |= SAMPLING | (sample or {})
    document["outputs"] = {"latent": {"from": "sample.latent"}}
    given = {
        "checkpoint": "model",
        "image": "picture.png",
        "negative": NEGATIVE,
        "prompt": PROMPT,
        "seed": SEED,
        "steps": STEPS,
    }
    own = settings(folder).model_copy(update={"model_folders": (folder,)})
    with Engine(settings=own, cached=False) as engine:
        return engine.submit(document, given | inputs).result(60)["latent"].samples


def called(pipe, **options) -> torch.Tensor:
    with torch.no_grad():
        return pipe(
            PROMPT,
            negative_prompt=NEGATIVE,
            num_inference_steps=STEPS,
            generator=generator(),
            output_type="latent",
            **options,
        ).images


def equal_to(theirs: torch.Tensor, ours: torch.Tensor, *controls: torch.Tensor) -> None:
    print(f"latents {error(ours, theirs):.1e}, controls {[f'{error(each, theirs):.1e}' for each in controls]}")
    assert error(ours, theirs) < LIMIT
    for control in controls:
        assert error(control, theirs) > CONTROL


def other_picture(folder: Path, name: str) -> str:
    pixels = np.asarray(Image.open(folder / name).convert("RGB"))
    Image.fromarray(np.ascontiguousarray(pixels[::-1])).save(folder / f"other_{name}")
    return f"other_{name}"


INPAINTING = {
    "SD 1.x": lambda folder: models.inpainting(folder),
    "SD 2.x v": lambda folder: models.inpainting(folder, "v_prediction"),
    "SDXL": models.inpainting_xl,
}


@pytest.mark.parametrize("name", INPAINTING)
def test_a_network_that_reads_a_mask_paints_what_its_diffusers_pipeline_paints(tmp_path, workflows, name):
    pipe = models.seeded(INPAINTING[name], tmp_path / "model")
    image, mask = models.pictures(tmp_path)
    size = {"width": models.WIDTH, "height": models.HEIGHT}
    theirs = called(pipe, image=image, mask_image=mask, strength=1.0, guidance_scale=3.0, **size)
    file, inputs = workflows / "inpaint_model.json", {"mask": "mask.png", "guidance": 3.0}
    equal_to(
        theirs,
        run(tmp_path, file, inputs),
        run(tmp_path, file, inputs | {"prompt": OTHER}),
        run(tmp_path, file, inputs | {"mask": other_picture(tmp_path, "mask.png")}),
        run(tmp_path, file, inputs | {"image": other_picture(tmp_path, "picture.png")}),
    )


@pytest.mark.parametrize(("text", "image_scale"), [(3.0, 1.5), (5.0, 1.0), (2.0, 2.5)])
def test_a_network_that_reads_a_picture_edits_as_its_diffusers_pipeline_does(tmp_path, workflows, text, image_scale):
    pipe = models.seeded(models.instructed, tmp_path / "model")
    image, _ = models.pictures(tmp_path)
    theirs = called(pipe, image=image, guidance_scale=text, image_guidance_scale=image_scale)
    file, inputs = workflows / "instruct_edit_model.json", {"guidance": text, "image_guidance": image_scale}
    equal_to(
        theirs,
        run(tmp_path, file, inputs),
        run(tmp_path, file, inputs | {"prompt": OTHER}),
        run(tmp_path, file, inputs | {"image_guidance": image_scale + 0.5}),
        run(tmp_path, file, inputs | {"image": other_picture(tmp_path, "picture.png")}),
    )


def test_a_plain_scale_is_that_of_the_instruction_and_weighs_the_picture_not_at_all(tmp_path, workflows):
    models.seeded(models.instructed, tmp_path / "model")
    models.pictures(tmp_path)
    file = workflows / "instruct_edit_model.json"
    plain = run(tmp_path, file, {}, {"guidance": 4.0})
    assert torch.equal(plain, run(tmp_path, file, {"guidance": 4.0, "image_guidance": 1.0}))


def test_the_three_estimates_are_combined_as_the_paper_says():
    bare, pictured, wanted, x = torch.randn(4, 2, 4, 3, 3, dtype=torch.float64).unbind()
    expected = bare + 1.5 * (pictured - bare) + 7.5 * (wanted - pictured)
    made = Pictured(ClassifierFree(7.5), 1.5).combine(wanted, torch.cat([pictured, bare]), x, 1.0)
    assert torch.allclose(made, expected)
    only = Pictured(Plain(), 1.5).combine(wanted, torch.cat([pictured, bare]), x, 1.0)
    assert torch.allclose(only, bare + 1.5 * (pictured - bare) + (wanted - pictured))


def test_a_plain_network_takes_an_inpaint_latent_as_a_limit(tmp_path, workflows):
    models.seeded(models.inpainting, tmp_path / "model", channels=4)
    models.pictures(tmp_path)
    ours = run(tmp_path, workflows / "inpaint_model.json", {"mask": "mask.png"})
    assert torch.equal(ours, run(tmp_path, workflows / "inpaint.json", {"mask": "mask.png"}, {"guidance": 7.5}))


def plain(folder: Path) -> None:
    models.inpainting(folder, channels=4)


def odd(folder: Path) -> None:
    """A model whose U-Net reads 7 channels, which no pipeline would have taken."""
    plain(folder)
    models.unet(7).save_pretrained(folder / "unet")


@pytest.mark.parametrize(
    ("make", "workflow", "sentence"),
    [
        (models.inpainting, "inpaint", "reads 9 channels, the latent gives 4. It wants a mask and a masked picture"),
        (models.inpainting, "instruct_edit_model", "reads 9 channels, the latent gives 8"),
        (models.instructed, "inpaint_model", "reads 8 channels, the latent gives 9. It wants a picture to edit"),
        (models.instructed, "image_to_image", "reads 8 channels, the latent gives 4"),
        (plain, "instruct_edit_model", "not trained to edit pictures"),
        (odd, "text_to_image", "unet reads 7 channels; expected 4"),
    ],
)
def test_a_latent_that_does_not_fit_the_network_is_refused(tmp_path, workflows, make, workflow, sentence):
    make(tmp_path / "model")
    models.pictures(tmp_path)
    document = json.loads((workflows / f"{workflow}.json").read_text())
    inputs = {"image": "picture.png", "mask": "mask.png", "checkpoint": "model", "steps": STEPS}
    own = settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)})
    with Engine(settings=own, cached=False) as engine, pytest.raises(NodeError, match=sentence):
        known = {name: value for name, value in inputs.items() if name in document["inputs"]}
        engine.submit(document, known).result(60)


def test_guidance_by_a_picture_is_refused_where_none_is_read(engine, workflows):
    document = json.loads((workflows / "text_to_image.json").read_text())
    document["nodes"]["weighed"] = {"type": "InstructGuidance", "inputs": {}}
    document["nodes"]["sample"]["inputs"]["guidance"] = {"from": "weighed.guidance"}
    del document["inputs"]["guidance"]
    with pytest.raises(NodeError, match="weighs a picture to edit, but this network reads none"):
        engine.submit(document).result(60)


@pytest.mark.parametrize(
    ("image", "mask", "sentence"),
    [
        (picture(64, 64), half_mask(32, 32), "the mask is 32 x 32, the picture 64 x 64"),
        (picture(60, 64), half_mask(60, 64), "both must be multiples of 8"),
        (picture(64, 64), replace(half_mask(), alpha=np.full((1, 64, 64), 0.4, np.float32)), "the mask is empty"),
        (picture(64, 64, batch=3), replace(half_mask(), alpha=np.ones((2, 64, 64), np.float32)), "2 masks and 3"),
    ],
)
def test_pictures_and_masks_that_do_not_fit_are_refused(tiny_vae, image, mask, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_node(InpaintLatent, vae=tiny_vae, image=image, mask=mask)


def test_one_picture_and_several_masks_make_a_batch(tiny_vae):
    masks = replace(half_mask(), alpha=np.concatenate([half_mask().alpha, 1 - half_mask().alpha]))
    latent = run_node(InpaintLatent, vae=tiny_vae, image=picture(), mask=masks).latent
    channels = tiny_vae.space.channels
    assert latent.samples.shape[0] == 2 and latent.beside.shape == (2, channels + 1, *latent.samples.shape[2:])
    assert torch.equal(latent.beside[0, 0] + latent.beside[1, 0], torch.ones_like(latent.beside[0, 0]))


@pytest.fixture
def tiny_vae(tmp_path):
    return find("tiny", settings(tmp_path)).handles()[2]
