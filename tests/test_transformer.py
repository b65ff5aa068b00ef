"""`tiny-dit`, the transformer that takes the place of tiny's U-Net: how it is trained, found, and what it draws."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer

from graphengine import Engine, NodeError
from graphengine.errors import CheckpointError
from graphengine.models import alone, checkpoint
from graphengine.testing import settings
from graphengine.training.checker import facts, read
from graphengine.training.denoiser import Scheme
from graphengine.training.scenes import Scene, Thing, caption, random_scene
from graphengine.training.transformer import BASE, Data, stratified, train, write

SCENES = [
    Scene((Thing("red", "circle", "large"),), "blue"),
    Scene((Thing("yellow", "square", None, "on the left"),), "black"),
    Scene((Thing("green", "ring", "large"),), "white"),
    Scene((Thing("white", "cross", None, "at the bottom"),), "brown"),
]
SHIPPED = BASE.parent / "tiny-dit"


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    latents = torch.randn(16, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    text = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32)
    return Data(
        latents, [random_scene(random) for _ in range(16)], text, CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    )


def test_the_workflow_draws_what_the_prompt_says_with_both_networks(tmp_path, workflows):
    right = {"unet": 0, "transformer": 0}
    with Engine(settings=settings(tmp_path)) as engine:
        for scene in SCENES:
            given = {"prompt": caption(scene), "seed": 3, "steps": 10}
            made = engine.submit(workflows / "diffusion_transformer.json", given).result(120)
            for name in right:
                picture = (made[name].pixels[0] * 255).round().astype(np.uint8)
                right[name] += facts(scene, read(picture))["all"]
            assert not np.array_equal(made["unet"].pixels, made["transformer"].pixels)
            assert made["image"].size[0] > 2 * 256
    assert right["unet"] == len(SCENES)
    assert right["transformer"] >= len(SCENES) - 1


def test_it_reads_the_prompts_of_tiny_and_works_in_its_latents(own):
    denoiser, encoder, vae = checkpoint.find("tiny", own).handles()
    found: Any = alone.find("tiny-dit", "denoiser", own)
    assert (found.family, found.space, found.prompts) == ("pixart", vae.space, encoder.kind)
    assert found.digest != denoiser.digest


def test_a_prompt_of_another_text_encoder_is_refused(own):
    shutil.copytree(BASE, own.model_folders[0] / "other")
    words = own.model_folders[0] / "other" / "tokenizer" / "vocab.json"
    words.write_text(words.read_text() + "\n")
    nodes = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "tiny"}},
        "other": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "other"}},
        "dit": {"type": "LoadDenoiser", "inputs": {"denoiser": "tiny-dit"}},
        "prompt": {"type": "EncodeText", "inputs": {"encoder": {"from": "other.text_encoder"}, "text": "a red star"}},
        "canvas": {"type": "EmptyLatent", "inputs": {"vae": {"from": "load.vae"}, "width": 64, "height": 64}},
        "sample": {
            "type": "Sampler",
            "inputs": {
                "denoiser": {"from": "dit.denoiser"},
                "positive": {"from": "prompt.conditioning"},
                "latent": {"from": "canvas.latent"},
                "guidance": 1.0,
                "steps": 1,
            },
        },
    }
    graph = {"graphengine": 1, "name": "mixed", "nodes": nodes, "outputs": {"latent": {"from": "sample.latent"}}}
    with Engine(settings=own) as engine, pytest.raises(NodeError, match="not encoded by a text encoder that goes with"):
        engine.submit(graph).result(60)


def test_beside_another_checkpoint_of_the_same_name_it_is_refused(own):
    mine = own.model_folders[0] / "tiny"
    shutil.copytree(BASE, mine)
    shutil.rmtree(mine / "vae")
    (mine / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match="tiny-dit was trained beside another tiny"):
        shutil.copytree(BASE / "unet", mine / "vae")
        (mine / "vae" / "config.json").write_text((BASE / "vae" / "config.json").read_text())
        alone.find("tiny-dit", "denoiser", own)


@pytest.mark.parametrize("told", [{}, {"checkpoint": "tiny"}, {"checkpoint": 3, "sums": {"a": "b"}}])
def test_a_companion_that_does_not_say_of_whom_is_refused(own, told):
    mine = own.model_folders[0] / "mine"
    shutil.copytree(SHIPPED, mine)
    (mine / "companion.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"expected checkpoint and sums"):
        alone.find("mine", "denoiser", own)


def test_a_path_that_leads_out_of_the_checkpoint_is_no_part_of_it(own):
    mine = own.model_folders[0] / "mine"
    shutil.copytree(SHIPPED, mine)
    (mine / "companion.json").write_text(
        json.dumps({"checkpoint": "tiny", "sums": {"../tiny-dit/companion.json": "x"}})
    )
    with pytest.raises(CheckpointError, match="is not the one that it goes with"):
        alone.find("mine", "denoiser", own)


def test_the_network_is_small_and_loads_in_diffusers():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 7e6
    loaded = PixArtTransformer2DModel.from_pretrained(SHIPPED / "transformer", low_cpu_mem_usage=False)
    assert sum(parameter.numel() for parameter in loaded.parameters()) < 3.5e6


def test_an_interrupted_training_goes_on_and_the_text_encoder_stays_as_it_was(data, tmp_path):
    before = {name: tensor.clone() for name, tensor in data.text.state_dict().items()}
    first = train(data, tmp_path, Scheme(1, batch=4)).averages["transformer"]
    stage = train(data, tmp_path, Scheme(2, batch=4))
    assert stage.done == 2
    assert not torch.equal(stage.averages["transformer"]["proj_out.weight"], first["proj_out.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in data.text.state_dict().items())


def test_what_was_trained_is_found_by_its_name(data, own):
    stage = train(data, own.model_folders[0] / "run", Scheme(1, batch=4))
    write(stage, own.model_folders[0] / "diffusion_models" / "fresh", BASE)
    made: Any = alone.find("fresh", "denoiser", own)
    assert made.prompts == checkpoint.find("tiny", own).prompts


def test_a_stratified_draw_has_one_number_in_each_interval():
    drawn = stratified(10, torch.Generator().manual_seed(0))
    assert (drawn * 10).long().tolist() == list(range(10))
