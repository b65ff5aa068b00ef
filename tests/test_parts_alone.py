"""Parts of models that lie alone: a VAE, a denoiser or a text encoder in a file or folder of its own."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from model_files import published

from graphengine import Engine, NodeError
from graphengine.errors import CheckpointError, GraphEngineError
from graphengine.models import alone, checkpoint, library, part_source
from graphengine.models.memory import ModelMemory
from graphengine.models.weights import read_header
from graphengine.values import VAE, Denoiser, Latent, LatentSpace, TextEncoder

TINY = library.BUNDLED / "tiny"


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of gigabytes that hold nothing are not read to the end."""
    monkeypatch.setattr(alone, "remembered_digest", lambda path, folder: str(path))


def test_a_part_of_a_whole_checkpoint_is_that_of_the_checkpoint(own):
    handles = checkpoint.find("tiny", own).handles()
    assert tuple(alone.find("tiny", role, own) for role in ("denoiser", "text_encoder", "vae")) == handles


def test_a_part_within_a_whole_checkpoint_is_that_of_the_checkpoint(own):
    assert alone.find("tiny/vae", "vae", own) == checkpoint.find("tiny", own).handles()[2]


def test_a_vae_alone_decodes_as_in_its_checkpoint(models, own):
    shutil.copytree(TINY / "vae", models / "vae" / "mine")
    mine, whole = alone.find("mine", "vae", own), checkpoint.find("tiny", own).handles()[2]
    assert isinstance(mine, VAE) and mine.alone and whole.space
    samples = torch.randn(1, whole.space.channels, 4, 4, generator=torch.Generator().manual_seed(0))
    memory = ModelMemory(own)
    assert (memory.vae(mine).decode(samples) == memory.vae(whole).decode(samples)).all()


@pytest.mark.parametrize(
    ("fixture", "kind", "channels"),
    [
        ("kl_4_vae_ldm", "sd", 4),
        ("kl_4_vae_ldm", "sdxl", 4),
        ("kl_4_vae", "sdxl", 4),
        ("kl_16_vae_ldm", "flux", 16),
        ("kl_16_vae", "sd3", 16),
    ],
)
def test_a_vae_in_a_file_has_the_latents_that_the_caller_says(models, own, unread, fixture, kind, channels):
    published(models / "vae" / "a.safetensors", fixture)
    found = alone.find("a.safetensors", "vae", own, kind)
    assert isinstance(found, VAE) and found.space == LatentSpace(channels, 8, kind)


def test_a_vae_in_a_file_that_may_be_either_asks_which(models, own):
    published(models / "vae" / "a.safetensors", "kl_4_vae_ldm")
    with pytest.raises(CheckpointError, match="of sd or sdxl, which look alike; set `kind`"):
        alone.find("a.safetensors", "vae", own)


def test_a_vae_in_a_file_is_not_taken_for_one_of_other_channels(models, own):
    published(models / "vae" / "a.safetensors", "kl_4_vae_ldm")
    with pytest.raises(CheckpointError, match="4 channels, of sd or sdxl, not flux"):
        alone.find("a.safetensors", "vae", own, "flux")


def test_two_scalings_of_one_file_are_two_models(models, own, unread):
    published(models / "vae" / "a.safetensors", "kl_4_vae_ldm")
    made = [alone.find("a.safetensors", "vae", own, kind).digest for kind in ("sd", "sdxl")]
    assert made[0] != made[1]


def meta_network(part: str, config: dict):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        made = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}[part].from_config(config)
    return {name: tensor.shape for name, tensor in made.state_dict().items()}


@pytest.mark.parametrize(
    ("fixture", "role", "kind"),
    [
        ("kl_4_vae_ldm", "vae", "sd"),
        ("kl_16_vae_ldm", "vae", "flux"),
        ("kl_4_vae", "vae", "sdxl"),
        ("sdxl_ldm_unet", "denoiser", "auto"),
        ("sd1_diffusers", "denoiser", "auto"),
        ("sd1_inpaint_diffusers", "denoiser", "auto"),
    ],
)
def test_every_tensor_of_a_part_finds_its_place(models, monkeypatch, fixture, role, kind):
    def lazily(files, dtype, prefix):
        infos = {name: info for name, info in read_header(files[0]).items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): torch.empty(i.shape, device="meta") for name, i in infos.items()}

    monkeypatch.setattr(part_source, "load_tensors", lazily)
    source = alone._source(published(models / "a.safetensors", fixture), role, kind)
    found = {name: tensor.shape for name, tensor in source.tensors(source.part, torch.float32).items()}
    assert found == meta_network(source.part, source.config(source.part))


def test_a_u_net_in_a_file_reads_the_prompts_and_latents_of_its_model(models, own, unread):
    published(models / "unet" / "a.safetensors", "sdxl_ldm_unet")
    found = alone.find("a.safetensors", "denoiser", own)
    assert isinstance(found, Denoiser)
    assert (found.family, found.prompts, found.space) == ("stable_diffusion_xl", "sdxl", LatentSpace(4, 8, "sdxl"))


def test_a_u_net_in_a_folder_of_its_own_loads(models, own):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1, "cross_attention_dim": 768}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    made = UNet2DConditionModel(**config, **blocks, attention_head_dim=2)  # pyright: ignore[reportArgumentType]
    made.save_pretrained(models / "diffusion_models" / "small")
    found = alone.find("small", "denoiser", own)
    assert isinstance(found, Denoiser) and found.vae() is None and found.prompts == "sd1"
    loaded = ModelMemory(own).denoiser(found).network  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(loaded.conv_in.weight, made.conv_in.weight)


def test_a_partial_checkpoint_keeps_its_own_scheduler(models, own):
    shutil.copytree(TINY / "unet", models / "part" / "unet")
    config = json.loads((models / "part" / "unet" / "config.json").read_text())
    (models / "part" / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 768}))
    (models / "part" / "scheduler").mkdir()
    (models / "part" / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    found = alone.find("part", "denoiser", own)
    assert alone.source_of(found).scheduler == {"prediction_type": "v_prediction"}


@pytest.mark.parametrize("role", ["denoiser", "text_encoder"])
def test_a_part_that_does_not_say_enough_is_refused(models, own, role):
    part = "unet" if role == "denoiser" else role
    shutil.copytree(TINY / part, models / "mine")
    with pytest.raises(CheckpointError, match="Load it from a whole checkpoint"):
        alone.find("mine", role, own)


def test_a_denoiser_of_a_family_that_is_not_driven_is_refused_by_name(models, own):
    published(models / "unet" / "a.safetensors", "wan_t2v_14b_original")
    with pytest.raises(CheckpointError, match=r"denoiser of wan \(wan_t2v_14b\)"):
        alone.find("a.safetensors", "denoiser", own)


def test_a_clip_text_encoder_in_a_file_encodes(models, own, unread):
    published(models / "text_encoders" / "a.safetensors", "clip_l")
    found = alone.find("a.safetensors", "text_encoder", own)
    assert isinstance(found, TextEncoder) and found.kind == "sd1"
    assert ModelMemory(own).text_encoder(found).encode("a cat").features.shape == (1, 77, 768)


def test_a_part_whose_weights_are_a_link_out_is_refused(models, own):
    shutil.copytree(TINY / "vae", models / "vae" / "mine")
    weights = models / "vae" / "mine" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, models.parent / "secret.safetensors")
    weights.symlink_to(models.parent / "secret.safetensors")
    with pytest.raises(CheckpointError, match="leads out"):
        alone.find("mine", "vae", own)


def test_a_part_that_has_changed_since_fails_the_run(models, own):
    shutil.copytree(TINY / "vae", models / "vae" / "mine")
    found = alone.find("mine", "vae", own)
    config = json.loads((models / "vae" / "mine" / "config.json").read_text())
    (models / "vae" / "mine" / "config.json").write_text(json.dumps(config | {"scaling_factor": 2.0}))
    assert isinstance(found, VAE)
    with pytest.raises(CheckpointError, match="was changed while the run went on"):
        ModelMemory(own).vae(found)


def test_a_file_that_holds_no_vae_says_what_it_holds(models, own):
    published(models / "vae" / "a.safetensors", "sd1_lora_kohya")
    with pytest.raises(CheckpointError, match="holds no vae that can be loaded alone, but a lora of stable_diffusion"):
        alone.find("a.safetensors", "vae", own)


def test_an_old_config_without_a_scaling_is_that_of_stable_diffusion(own):
    config = {"_class_name": "AutoencoderKL", "latent_channels": 4, "block_out_channels": [128, 256, 512, 512]}
    made = checkpoint.Checkpoint("x", Path("x"), "stable_diffusion", "0", {"vae": config})
    assert made.space == LatentSpace(4, 8, "sd")


def nodes(loaders: dict, denoiser: str, encoder: str, vae: str) -> dict:
    prompt = {"from": "prompt.conditioning"}
    sampler = {"denoiser": {"from": denoiser}, "positive": prompt, "latent": {"from": "empty.latent"}}
    made = loaders | {
        "prompt": {"type": "EncodeText", "inputs": {"encoder": {"from": encoder}, "text": "a red star"}},
        "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": vae}}},
        "sample": {"type": "Sampler", "inputs": sampler | {"guidance": 1.0, "steps": 2}},
        "decode": {"type": "VAEDecode", "inputs": {"vae": {"from": vae}, "latent": {"from": "sample.latent"}}},
    }
    return {"graphengine": 1, "name": "w", "nodes": made, "outputs": {"image": {"from": "decode.image"}}}


def test_three_loaders_draw_what_one_draws(own):
    whole = {"load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "tiny"}}}
    apart = {
        "d": {"type": "LoadDenoiser", "inputs": {"denoiser": "tiny"}},
        "t": {"type": "LoadTextEncoder", "inputs": {"text_encoder": "tiny"}},
        "v": {"type": "LoadVAE", "inputs": {"vae": "tiny"}},
    }
    with Engine(settings=own, cached=False) as engine:
        run = partial(nodes, whole, "load.denoiser", "load.text_encoder", "load.vae")
        first = engine.submit(run()).result()["image"]
        second = engine.submit(nodes(apart, "d.denoiser", "t.text_encoder", "v.vae")).result()["image"]
    assert (first.pixels == second.pixels).all()


def test_a_vae_of_another_space_is_refused_before_anything_loads(models, own, unread, monkeypatch):
    published(models / "vae" / "a.safetensors", "kl_4_vae_ldm")
    loaders = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "tiny"}},
        "v": {"type": "LoadVAE", "inputs": {"vae": "a.safetensors", "kind": "sdxl"}},
        "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": "load.vae"}}},
        "decode": {
            "type": "VAEDecode",
            "inputs": {"vae": {"from": "v.vae"}, "latent": {"from": "empty.latent"}},
        },
    }
    monkeypatch.setattr(ModelMemory, "_part", lambda *_: pytest.fail("a model was loaded"))
    document = {"graphengine": 1, "name": "w", "nodes": loaders, "outputs": {"image": {"from": "decode.image"}}}
    with Engine(settings=own) as engine, pytest.raises(NodeError, match="belongs to another model"):
        engine.submit(document).result()


def test_a_part_that_is_not_there_is_told_with_the_nearest_name(own):
    with pytest.raises(GraphEngineError, match="Did you mean tiny"):
        alone.find("tinny", "vae", own)


def test_a_latent_carries_the_space_of_the_vae(models, own, unread):
    published(models / "vae" / "a.safetensors", "kl_16_vae")
    found = alone.find("a.safetensors", "vae", own, "flux")
    assert isinstance(found, VAE) and found.space
    assert Latent(torch.zeros(1, 16, 1, 1), found.space).space.kind == "flux"
