"""Single files beyond Stable Diffusion 1, 2 and XL: named, measured and drawn with as their folders are."""

import pytest
import torch
from families.harness import library
from original_files import RandomPrompt, build, original, save
from test_identify import load

from graphengine import Engine
from graphengine.models import part_source, published
from graphengine.models.checkpoint import Checkpoint
from graphengine.models.identify import identify
from graphengine.models.original_names import renamed, renamed_shapes, table_of
from graphengine.models.vae_files import vae_source
from graphengine.models.weights import TensorInfo
from graphengine.testing import settings

LAYOUTS = (
    "aura_flow_diffusers",
    "aura_flow_original",
    "chroma_comfyui",
    "chroma_diffusers",
    "flux_2_dev_bfl",
    "flux_2_klein_4b_bfl",
    "flux_2_klein_9b_diffusers",
    "flux_depth_bfl",
    "flux_dev_bfl",
    "flux_dev_comfyui",
    "flux_fill_diffusers",
    "flux_schnell_bfl",
    "lumina_2_diffusers",
    "lumina_2_original",
    "pixart_alpha_diffusers",
    "pixart_sigma_original",
    "qwen_image_diffusers",
    "sana_0_6b_original",
    "sana_1_6b_diffusers",
    "sana_1_6b_original",
    "sd35_large_original",
    "sd35_medium_original",
    "sd3_medium_original",
    "z_image_diffusers",
    "z_image_original",
)


def network(config):
    """The tensors' shapes of a diffusers network of a config."""
    made = getattr(library("diffusers"), config["_class_name"])
    with torch.device("meta"):
        found = made.from_config({key: value for key, value in config.items() if key != "_class_name"})
    return {name: tuple(tensor.shape) for name, tensor in found.state_dict().items()}


@pytest.mark.parametrize("fixture", LAYOUTS)
def test_every_tensor_of_a_published_transformer_finds_its_place_in_the_network_that_its_shapes_tell(fixture):
    header, _ = load(fixture)
    found = identify(header)
    prefix = found.parts["denoiser"]
    known = published.transformer(found, header, prefix, fixture)
    assert known is not None
    own = {name.removeprefix(prefix): info.shape for name, info in header.items() if name.startswith(prefix)}
    table = table_of(found.family, found.layout)
    assert table is not None
    assert renamed_shapes(table, own) == network(known[1]["transformer"])


CONVERTERS = {
    "aura_flow_original": "convert_auraflow_transformer_checkpoint_to_diffusers",
    "chroma_comfyui": "convert_chroma_transformer_checkpoint_to_diffusers",
    "flux_2_klein_4b_bfl": "convert_flux2_transformer_checkpoint_to_diffusers",
    "flux_dev_bfl": "convert_flux_transformer_checkpoint_to_diffusers",
    "lumina_2_original": "convert_lumina2_to_diffusers",
    "sana_1_6b_original": "convert_sana_transformer_to_diffusers",
    "sd35_medium_original": "convert_sd3_transformer_checkpoint_to_diffusers",
    "z_image_original": "convert_z_image_transformer_checkpoint_to_diffusers",
}


def two_blocks(fixture):
    """The first and the last block of a published file, with its own name and the row as every number."""
    header, _ = load(fixture)
    found = identify(header)
    prefix, most = found.parts["denoiser"], {}
    names = {name.removeprefix(prefix): info.shape for name, info in header.items() if name.startswith(prefix)}
    for name in names:
        block, number, *_ = (*name.split("."), "")
        if number.isdecimal():
            most[block] = max(most.get(block, 0), int(number))
    made = {}
    for at, (name, shape) in enumerate(names.items()):
        block, number, *rest = (*name.split("."), "")
        if number.isdecimal() and int(number) not in (0, most[block]):
            continue
        new = name
        if number.isdecimal():
            new = ".".join([block, "0" if number == "0" else "1", *rest[:-1]])
        rows = torch.arange(shape[0], dtype=torch.int16) + at
        made[new] = rows.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    return found, made


@pytest.mark.parametrize("fixture", CONVERTERS)
def test_names_and_rows_are_those_that_diffusers_own_converter_gives(fixture):
    found, tensors = two_blocks(fixture)
    table = table_of(found.family, found.layout)
    assert table
    ours = renamed(table, tensors)
    if found.family == "sana":
        tensors |= {"pos_embed": torch.zeros(1), "y_embedder.y_embedding": torch.zeros(1)}
    theirs = getattr(library("diffusers.loaders.single_file_utils"), CONVERTERS[fixture])(tensors)
    assert set(ours) == {name for name, tensor in theirs.items() if tensor is not None}
    assert all(
        torch.equal(
            tensor.flatten(1)[:, 0] if tensor.ndim > 1 else tensor,
            theirs[name].flatten(1)[:, 0] if tensor.ndim > 1 else theirs[name],
        )
        for name, tensor in ours.items()
    )


def test_nothing_is_copied_but_what_changes_its_order():
    found, tensors = two_blocks("flux_dev_bfl")
    table = table_of(found.family, found.layout)
    assert table
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    made = renamed(table, tensors)
    copied = {name for name, tensor in made.items() if tensor.untyped_storage().data_ptr() not in own}
    assert copied == {"norm_out.linear.weight", "norm_out.linear.bias"}


@pytest.mark.parametrize(
    ("fixture", "model", "kind"),
    [
        ("kl_32_vae", "flux_2_dev", "flux_2"),
        ("kl_32_vae_ldm", "flux_2_dev", "flux_2"),
        ("wan_2_1_vae", "qwen_image", "qwen_image"),
        ("wan_2_1_original", "qwen_image", "qwen_image"),
        ("dc_ae_vae", "sana_1_6b", "sana"),
    ],
)
def test_every_tensor_of_an_autoencoder_finds_its_place(tmp_path, monkeypatch, fixture, model, kind):
    wanted = network(published.published(model)["vae"])
    (tmp_path / "a.safetensors").touch()
    if fixture == "wan_2_1_original":
        plain = {name: torch.empty(shape, device="meta") for name, shape in wanted.items()}
        header = {
            name: TensorInfo("F32", tuple(tensor.shape)) for name, tensor in original(plain, "wan", "original").items()
        }
    else:
        header = load(fixture)[0]
    source = vae_source(tmp_path / "a.safetensors", header, "auto")
    assert source
    found = {name: torch.empty(info.shape, device="meta") for name, info in header.items()}
    monkeypatch.setattr(part_source, "load_tensors", lambda *_: found)
    assert {name: tuple(tensor.shape) for name, tensor in source.tensors("vae", torch.float32).items()} == {
        name: shape for name, shape in wanted.items() if not name.endswith("num_batches_tracked")
    } | {name: () for name in wanted if name.endswith("num_batches_tracked") and name in header}
    space = Checkpoint("a", tmp_path, "", "0", {"vae": source.config("vae")}).space
    assert space.kind == kind


def test_the_names_of_the_autoencoder_of_qwen_are_those_that_diffusers_own_converter_gives():
    shapes = network(published.published("qwen_image")["vae"])
    plain = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    theirs = library("diffusers.loaders.single_file_utils").convert_wan_vae_to_diffusers(
        original(plain, "wan", "original")
    )
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == shapes


@pytest.mark.parametrize(
    ("fixture", "kind"), [("sd35_large_original", "sd3"), ("flux_dev_comfyui", "flux"), ("sdxl_checkpoint", "sdxl")]
)
def test_a_denoiser_in_the_same_file_says_which_autoencoder_it_is(tmp_path, fixture, kind):
    source = vae_source(tmp_path / "a.safetensors", load(fixture)[0], "auto")
    assert source and Checkpoint("a", tmp_path, "", "0", {"vae": source.config("vae")}).space.kind == kind


FILES = {
    "aura_flow": ("original", "", {"width": 2048}),
    "chroma": ("bfl", "model.diffusion_model.", {"width": 4096}),
    "flux_dev": ("bfl", "", {"width": 4096, "pooled": 768}),
    "flux_schnell": ("bfl", "model.diffusion_model.", {"width": 4096, "pooled": 768}),
    "flux_2_klein_4b": ("bfl", "", {"width": 7680}),
    "flux_2_dev": ("bfl", "model.diffusion_model.", {"width": 15360}),
    "lumina_2": ("original", "model.diffusion_model.", {"width": 2304}),
    "pixart_alpha": ("diffusers", "", {"width": 4096}),
    "pixart_sigma": ("original", "", {"width": 4096}),
    "qwen_image": ("diffusers", "model.diffusion_model.", {"width": 3584}),
    "sana_1_6b": ("original", "", {"width": 2304}),
    "sd3": ("original", "model.diffusion_model.", {"width": 4096, "pooled": 2048}),
    "z_image": ("original", "model.diffusion_model.", {"width": 2560}),
}
"""Layout, prefix and prompts of each model's file."""
FAMILY = {"flux_dev": "flux", "flux_schnell": "flux", "flux_2_klein_4b": "flux_2", "flux_2_dev": "flux_2"} | {
    "pixart_alpha": "pixart",
    "pixart_sigma": "pixart",
    "sana_1_6b": "sana",
    "sd3": "stable_diffusion_3",
}


def latents(place, denoisers, model, prompt):
    """The final latents of each denoiser, by the nodes."""
    prompt = prompt | {"kind": published.standard(model)}
    nodes = {
        "prompt": {"type": "RandomPrompt", "inputs": prompt},
        "vae": {"type": "LoadVAE", "inputs": {"vae": "folder"}},
        "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": "vae.vae"}, "width": 64, "height": 96}},
    }
    for name in denoisers:
        word = name.partition(".")[0]
        nodes[f"load_{word}"] = {"type": "LoadDenoiser", "inputs": {"denoiser": name}}
        inputs = {"denoiser": f"load_{word}.denoiser", "positive": "prompt.conditioning", "latent": "empty.latent"}
        inputs = {key: {"from": source} for key, source in inputs.items()}
        nodes[word] = {"type": "Sampler", "inputs": inputs | {"steps": 2, "guidance": 1.0, "seed": 5}}
    words = [name.partition(".")[0] for name in denoisers]
    workflow = {"graphengine": 1, "name": "w", "nodes": nodes, "outputs": {w: {"from": f"{w}.latent"} for w in words}}
    with Engine(nodes=[RandomPrompt], settings=settings(place), cached=False) as engine:
        made = engine.submit(workflow).result()
    return [made[word].samples for word in words]


@pytest.mark.parametrize("model", FILES)
def test_a_transformer_in_a_file_draws_bit_for_bit_what_its_folder_draws(tmp_path, model):
    layout, prefix, prompt = FILES[model]
    network = build(model, tmp_path / "models" / "folder")
    tensors = original(network.state_dict(), FAMILY.get(model) or model, layout)
    save({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "models" / "file.safetensors")
    folder, file = latents(tmp_path, ["folder", "file.safetensors"], model, prompt)
    assert torch.equal(folder, file)
    assert folder.std() > 0.1
