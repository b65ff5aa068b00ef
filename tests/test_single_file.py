"""Checkpoints in one file: told by their tensors, their names turned into diffusers', and what is refused."""

import json

import pytest
import torch
from families.harness import library
from full_size import CONFIGS, shapes
from safetensors.torch import save_file

from graphengine.errors import CheckpointError
from graphengine.models import ldm
from graphengine.models.checkpoint import find
from graphengine.models.single_file import TEXTS, UNET, VAE, SingleFile, model_of
from graphengine.models.weights import TensorInfo
from graphengine.testing import settings


def header(model: str) -> dict[str, TensorInfo]:
    return {name: TensorInfo("F16", shape) for name, shape in shapes(model).items()}


def tensors(model: str, prefix: str) -> dict[str, torch.Tensor]:
    found = {name: shape for name, shape in shapes(model).items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): torch.empty(shape, device="meta") for name, shape in found.items()}


@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_a_file_is_told_by_its_tensors(model):
    assert model_of(header(model), "anything.safetensors") == model


@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_every_tensor_of_a_file_finds_its_place_in_the_networks(model):
    diffusers, transformers = library("diffusers"), library("transformers")
    configs = json.loads((CONFIGS / f"{model}.json").read_text())
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(configs["unet"])
        vae = diffusers.AutoencoderKL.from_config(configs["vae"])
    found = ldm.renamed(tensors(model, UNET), ldm.unet_table(configs["unet"]))
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in unet.state_dict().items()}
    found = ldm.renamed(tensors(model, VAE), ldm.vae_table(configs["vae"]))
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in vae.state_dict().items()}
    for part, prefix in TEXTS[model].items():
        if prefix.endswith(".model."):
            with torch.device("meta"):
                kind = getattr(transformers, configs[part]["architectures"][0])
                encoder = kind(transformers.CLIPTextConfig(**configs[part]))
            wanted = {n.removeprefix("text_model."): t.shape for n, t in encoder.state_dict().items()}
            made = {n.removeprefix("text_model."): t.shape for n, t in ldm.open_clip(tensors(model, prefix)).items()}
            assert wanted == {name: made[name] for name in wanted}


def test_an_unknown_file_is_told_with_what_was_seen(tmp_path):
    save_file({"blocks.0.weight": torch.zeros(2, 3)}, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.0\.weight \[2, 3\]"):
        find("odd.safetensors", settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)}))


def test_a_file_with_a_u_net_alone_is_no_whole_checkpoint():
    alone = {name: info for name, info in header("sd1").items() if name.startswith(UNET)}
    with pytest.raises(CheckpointError, match="holds a denoiser of stable_diffusion"):
        model_of(alone, "unet.safetensors")


def test_a_mark_in_the_file_says_that_it_predicts_v(tmp_path):
    made = {name: torch.zeros(1) for name in ("v_pred",)}
    save_file(made, tmp_path / "v.safetensors")
    source = SingleFile(tmp_path / "v.safetensors")
    source.__dict__["header"] = header("sdxl") | source.header
    assert source.scheduler["prediction_type"] == "v_prediction"


def test_the_tokenizer_that_ships_cuts_words_as_the_published_one():
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    from graphengine.models import single_file

    tokenizer = CLIPTokenizer.from_pretrained(single_file.HERE / "tokenizers" / "clip", local_files_only=True)
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
