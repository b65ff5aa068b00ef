"""Networks that read reference pictures, or a picture beside the latent in a way of their own, by the workflows that ship."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import flux, flux_2_edit, flux_edit, qwen_image, qwen_image_edit
from families.harness import CONTROL, LIMIT, NEGATIVE, OTHER, PROMPT, SEED, STEPS, compare, error, library
from PIL import Image as pillow

from graphengine import Conditioning, Engine, Image, Latent, NodeError
from graphengine.models.checkpoint import find
from graphengine.models.eyes import positions
from graphengine.models.families import flux as flux_family
from graphengine.models.families import flux_2
from graphengine.models.families import qwen_image as qwen_family
from graphengine.models.memory import ModelMemory
from graphengine.models.sampling import Request, _referring, sample, sample_singly
from graphengine.nodes.reference import EncodeTextSeeing, ReferencePicture  # pyright: ignore[reportMissingImports]
from graphengine.planes import as_picture
from graphengine.store import codec
from graphengine.testing import picture, run_node, settings
from graphengine.values import Guider, LatentSpace

CASES = {
    "kontext": flux_edit.CASES[2],
    "klein": flux_2_edit.CASES[0],
    "qwen": qwen_image_edit.CASES[0],
    "plus": qwen_image_edit.CASES[1],
}
PIPELINES = {
    "kontext": partial(flux_edit.referred, False),
    "klein": partial(flux_2_edit.latents, ("first",)),
    "qwen": partial(qwen_image_edit.latents, ("first",)),
    "plus": partial(qwen_image_edit.latents, ("first",)),
}
"""What they draw with one picture."""
NAMES = {"kontext": "reference", "klein": "first", "qwen": "first", "plus": "first"}
SPACE = LatentSpace(4, 8, "test")


def own(folder: Path):
    return settings(folder).model_copy(update={"model_folders": (folder,)})


def drawn(folder: Path, workflow: Path, inputs: dict, **sample) -> torch.Tensor:
    """The latents of a workflow, with the checkpoint `model` of a folder."""
    document = json.loads(workflow.read_text())
    document["nodes"]["sample"]["inputs"] |= sample
    document["outputs"] = {"latent": {"from": "sample.latent"}}
    given = {
        "checkpoint": "model",
        "prompt": PROMPT,
        "negative": NEGATIVE,
        "seed": SEED,
        "steps": STEPS,
        "guidance": 3.0,
    }
    with Engine(settings=own(folder), cached=False) as engine:
        return engine.submit(document, given | inputs).result(60)["latent"].samples


def turned(folder: Path, name: str) -> str:
    """The same picture upside down."""
    pixels = np.asarray(pillow.open(folder / name))
    pillow.fromarray(np.ascontiguousarray(pixels[::-1])).save(folder / f"turned_{name}")
    return f"turned_{name}"


def made(case, folder: Path):
    torch.manual_seed(0)
    pipe = case.make(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe


# Workflows


@pytest.mark.parametrize("name", CASES)
def test_a_workflow_draws_what_the_pipeline_draws_and_minds_the_picture(tmp_path, workflows, name):
    case = CASES[name]
    pipe = made(case, tmp_path)
    with torch.no_grad():
        theirs = PIPELINES[name](pipe, PROMPT, NEGATIVE)
    file = workflows / f"{'edit_seen_picture' if name in ('qwen', 'plus') else 'edit_with_reference'}.json"
    size = {"width": case.size, "height": case.height}
    inputs = {"image": f"{NAMES[name]}.png", "resize": "as_trained" if name == "klein" else "none"} | size
    ours = drawn(tmp_path, file, inputs)
    assert error(ours, theirs) < LIMIT
    for change in ({"prompt": OTHER}, {"image": turned(tmp_path, f"{NAMES[name]}.png")}):
        assert error(drawn(tmp_path, file, inputs | change), theirs) > CONTROL


def test_the_inpainting_workflow_fills_as_the_pipeline_of_fill_does(tmp_path, workflows):
    case = flux_edit.CASES[0]
    pipe = made(case, tmp_path)
    with torch.no_grad():
        theirs = case.latents(pipe, PROMPT, NEGATIVE)
    file, inputs = workflows / "inpaint_model.json", {"image": "picture.png", "mask": "mask.png"}
    euler = {"sampler": "euler", "schedule": "simple"}
    assert error(drawn(tmp_path, file, inputs, **euler), theirs) < LIMIT
    levels = np.asarray(pillow.open(tmp_path / "mask.png")).copy()
    levels[13:14, 21:77] = 0  # a row of pixels within cells
    pillow.fromarray(levels).save(tmp_path / "less.png")
    for change in ({"mask": "less.png"}, {"image": turned(tmp_path, "picture.png")}, {"prompt": OTHER}):
        assert error(drawn(tmp_path, file, inputs | change, **euler), theirs) > CONTROL


def test_a_picture_resized_as_in_training_is_read_as_the_pipeline_reads_it(tmp_path, monkeypatch):
    sizes = [(w // 8, h // 8) for w, h in flux_family.SIZES]
    home = library("diffusers.pipelines.flux.pipeline_flux_kontext")
    assert tuple(home.PREFERRED_KONTEXT_RESOLUTIONS) == flux_family.SIZES
    small = [(w // 16 * 16, h // 16 * 16) for w, h in sizes]
    monkeypatch.setattr(home, "PREFERRED_KONTEXT_RESOLUTIONS", small)
    monkeypatch.setattr(flux_family, "SIZES", small)
    found = compare(flux_edit.AS_TRAINED, tmp_path)
    assert found.equal


# Sizes


@pytest.mark.parametrize("size", [(1024, 1024), (640, 480), (300, 1000), (1717, 333), (100, 90), (2000, 2000)])
def test_sizes_of_training_are_those_of_the_pipelines(size):
    plus = library("diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus")
    for area in (qwen_family.LATENT_AREA, qwen_family.SEEN_AREA):
        assert qwen_family.area_size(size[0], size[1], area) == plus.calculate_dimensions(area, size[0] / size[1])
    assert (qwen_family.LATENT_AREA, qwen_family.SEEN_AREA) == (plus.VAE_IMAGE_SIZE, plus.CONDITION_IMAGE_SIZE)
    processor = library("diffusers.pipelines.flux2.image_processor").Flux2ImageProcessor
    vae = object.__new__(flux_2.VAE)
    vae._side = 16
    within = processor._resize_if_exceeds_area(pillow.new("RGB", size))
    resized, kept = vae.reference_size(size[0], size[1])
    assert resized == within.size and kept == tuple(side // 16 * 16 for side in within.size)


def test_a_picture_is_resized_at_8_bits_as_pillow_does_it():
    pixels = picture(40, 30).pixels[0]
    expected = Image(pixels[None]).pil()[0].resize((64, 48), pillow.Resampling.LANCZOS)
    assert (np.asarray(as_picture(pixels, (64, 48))) == np.asarray(expected)).all()


def test_positions_of_words_and_pictures_are_those_of_the_language_model():
    model = qwen_image_edit.qwen_vl(qwen_image_edit.EYES).model
    kinds = torch.tensor([[0] * 3 + [1] * 6 + [0] * 2 + [1] * 4 + [0]])
    grids = torch.tensor([[1, 4, 6], [1, 4, 4]])
    theirs, _ = model.get_rope_index(torch.zeros_like(kinds), kinds, image_grid_thw=grids)
    assert torch.equal(positions(kinds[0] == 1, [(2, 3), (2, 2)]), theirs)
    assert torch.equal(positions(torch.zeros(5, dtype=torch.bool), [])[1, 0], torch.arange(5))


# Batches


def test_pictures_drawn_singly_read_each_its_own_reference(tmp_path):
    made(flux_edit.CASES[2], tmp_path)
    handles = find("model", own(tmp_path)).handles()
    memory = ModelMemory(own(tmp_path))
    model, text = memory.denoiser(handles[0]), memory.text_encoder(handles[1]).encode(PROMPT)
    space = handles[2].space
    assert space is not None
    reference = Latent(torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(1)), space)
    prompt = Conditioning(text.features, handles[1].kind, extras=text.extras, references=(reference,))
    request = Request(prompt, None, Guider(3.0), SEED, 2, "euler", "simple")
    latent = Latent(torch.zeros(2, 16, 4, 4), space)
    together, singly = (draw(model, latent, request, lambda *told: None) for draw in (sample, sample_singly))
    assert error(singly, together) < LIMIT
    assert error(singly[:1], together[1:]) > CONTROL


def test_a_prompt_with_a_reference_comes_back_from_the_disk():
    prompt = Conditioning(torch.ones(1, 2, 3), "kind", references=(Latent(torch.rand(1, 4, 2, 2), SPACE),))
    read = codec.decode(codec.encode({"conditioning": prompt}, {}))[0]["conditioning"]
    assert torch.equal(read.references[0].samples, prompt.references[0].samples)
    assert read.references[0].space == SPACE


# What is refused


def refused(folder: Path, workflow: Path, sentence: str, **inputs) -> None:
    with pytest.raises(NodeError, match=sentence):
        drawn(folder, workflow, {"width": 64, "height": 64} | inputs)


def test_a_family_that_reads_no_references_refuses_them(tmp_path, workflows):
    picture(64, 64).pil()[0].save(tmp_path / "picture.png")
    file = workflows / "edit_with_reference.json"
    refused(tmp_path, file, "this network reads none", image="picture.png", resize="none", checkpoint="tiny")
    refused(tmp_path, file, "no model that tiny belongs to reads reference", image="picture.png", checkpoint="tiny")
    seen = workflows / "edit_seen_picture.json"
    refused(tmp_path, seen, "text encoder of tiny sees no pictures", image="picture.png", checkpoint="tiny")


def test_a_text_encoder_without_a_processor_sees_nothing(tmp_path, workflows):
    qwen_image.make(tmp_path / "model")
    picture(64, 64).pil()[0].save(tmp_path / "picture.png")
    refused(tmp_path, workflows / "edit_seen_picture.json", "has no processor, and so sees no", image="picture.png")


def test_a_model_that_sees_one_picture_refuses_two_and_batches_are_refused(tmp_path):
    made(CASES["qwen"], tmp_path)
    _, encoder, vae = find("model", own(tmp_path)).handles()
    adapter = ModelMemory(own(tmp_path)).text_encoder(encoder)
    assert isinstance(adapter, qwen_family.Text)
    pictures = [picture(64, 64).pixels[0]] * 2
    with pytest.raises(ValueError, match="sees one picture beside the words, not 2"):
        adapter.encode_seeing(PROMPT, pictures)
    with pytest.raises(ValueError, match="picture 1 is a batch of 2"):
        run_node(EncodeTextSeeing, encoder=encoder, images=[picture(64, 64, batch=2)])
    with pytest.raises(ValueError, match="60 x 64; both must be multiples of 8"):
        prompt = Conditioning(torch.ones(1, 2, 3), "kind")
        run_node(ReferencePicture, conditioning=prompt, vae=vae, image=picture(60, 64), resize="none")


def test_marks_of_pictures_in_a_prompt_are_left_out(tmp_path):
    made(CASES["qwen"], tmp_path)
    encoder = find("model", own(tmp_path)).handles()[1]
    adapter = ModelMemory(own(tmp_path)).text_encoder(encoder)
    assert isinstance(adapter, qwen_family.Text)
    plain, marked = (
        adapter.encode_seeing(text, [picture(64, 64).pixels[0]], resize=False)
        for text in (PROMPT, f"{PROMPT}{qwen_family.PAD}")
    )
    assert torch.equal(plain.features, marked.features)
    long = adapter.encode_seeing("star " * 2000, [picture(64, 64).pixels[0]], resize=False)
    assert long.cut and set(long.cut) <= {"star", "tar", "ar", "r"}


def test_references_of_another_model_or_unlike_those_of_the_negative_prompt_are_refused():
    def prompt(*shapes: tuple[int, int], space: LatentSpace = SPACE) -> Conditioning:
        latents = tuple(Latent(torch.zeros(1, 4, *shape), space) for shape in shapes)
        return Conditioning(torch.ones(1, 2, 3), "kind", references=latents)

    def referring(positive: Conditioning, negative: Conditioning | None) -> Request:
        request = Request(positive, negative, Guider(3.0), 0, 1, "euler", "simple")
        model = SimpleNamespace(reads_references=True)
        return _referring(model, Latent(torch.zeros(1, 4, 8, 8), SPACE), request)  # pyright: ignore[reportArgumentType]

    taken = referring(prompt((2, 2)), prompt()).negative
    assert taken is not None and len(taken.references) == 1
    with pytest.raises(ValueError, match="refers to other pictures than the positive"):
        referring(prompt((2, 2)), prompt((2, 3)))
    with pytest.raises(ValueError, match="refers to other pictures than the positive"):
        referring(prompt(), prompt((2, 3)))
    with pytest.raises(ValueError, match="encoded by the VAE of another model"):
        referring(prompt((2, 2), space=LatentSpace(4, 8, "other")), None)


def test_a_processor_that_asks_for_too_much_is_refused(tmp_path, workflows):
    made(CASES["qwen"], tmp_path)
    file, seen = tmp_path / "model" / "processor" / "preprocessor_config.json", workflows / "edit_seen_picture.json"
    file.write_text(json.dumps({"min_pixels": 1, "max_pixels": 2**40}))
    refused(tmp_path, seen, "wants pictures of 1 to", image="first.png", resize="none")
    file.write_text(json.dumps({"image_mean": [0.5]}))
    refused(tmp_path, seen, "image_mean that is not of three colours", image="first.png", resize="none")
    file.unlink()
    refused(tmp_path, seen, "has no preprocessor_config.json", image="first.png", resize="none")


def test_a_network_of_unknown_channels_is_refused(tmp_path, workflows):
    flux.CASES[0].make(tmp_path / "model")
    config = tmp_path / "model" / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 100, "out_channels": 64}))
    picture(64, 64).pil()[0].save(tmp_path / "picture.png")
    sentence = "reads 100 channels and gives 64; expected it to read 64 of the latent"
    refused(tmp_path, workflows / "edit_with_reference.json", sentence, image="picture.png", resize="none")
