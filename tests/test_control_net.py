"""ControlNet and T2I-Adapter: equal to diffusers' pipelines, in their window alone, and told from what they are not."""

import json
import shutil
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from families.harness import CONTROL, LIMIT, OTHER, error, library
from safetensors.torch import load_file, save_file
from steered_models import MAKERS, SIZE, Place, Use, adapters, control_nets, known
from test_identify import load as layout

import graphengine
from graphengine import Conditioning, Engine, NodeError
from graphengine.errors import CheckpointError
from graphengine.models import control_files, control_net, ldm
from graphengine.store import codec
from graphengine.testing import picture, run_node, settings
from graphengine.values import Control, ControlNet


@pytest.fixture(scope="module", params=list(MAKERS))
def place(request, tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("sd"), "SD")


@pytest.mark.parametrize(
    "uses",
    [
        (Use(),),
        (Use(), Use(1, 1, 1.3)),
        (Use(start=0.25, end=0.75),),
        (Use(end=0.3), Use(1, 1, start=0.5)),
    ],
    ids=["one", "two", "window", "two windows"],
)
def test_it_is_equal_to_the_pipeline_and_without_it_is_not(place, uses):
    theirs, ours = place.theirs(*uses), place.ours(*uses)
    assert error(ours, theirs) < LIMIT
    assert error(place.ours(), theirs) > CONTROL
    assert error(place.ours(*uses, prompt=OTHER), theirs) > CONTROL
    for changed in (replace(uses[0], hint=1 - uses[0].hint), replace(uses[0], strength=0.4)):
        assert error(place.ours(changed, *uses[1:]), theirs) > CONTROL


@pytest.mark.parametrize("family", list(MAKERS))
def test_an_adapter_is_equal_to_its_pipeline(family, tmp_path):
    place = Place(tmp_path, family, partial(adapters, family))
    pipeline = {"SD": "StableDiffusionAdapterPipeline", "SDXL": "StableDiffusionXLAdapterPipeline"}[family]
    for uses in ((Use(),), (Use(), Use(1, 1, 1.3))):
        theirs = place.theirs(*uses, pipeline=pipeline)
        assert error(place.ours(*uses), theirs) < LIMIT
        assert error(place.ours(), theirs) > CONTROL
        assert error(place.ours(replace(uses[0], hint=1), *uses[1:]), theirs) > CONTROL
    if family == "SDXL":
        half = place.theirs(Use(), pipeline=pipeline, adapter_conditioning_factor=0.5)
        assert error(place.ours(Use(end=0.5)), half) < LIMIT


def test_a_network_that_pools_steers_the_branch_of_the_wanted_prompt_alone(tmp_path):
    place = Place(tmp_path, "SD", partial(control_nets, global_pool_conditions=True))
    theirs = place.theirs(Use())
    assert error(place.ours(Use()), theirs) < LIMIT
    assert error(place.ours(Use(), negative=(Use(),)), theirs) < LIMIT


def test_a_branch_beside_a_steered_one_draws_bit_for_bit_what_it_draws_alone(place):
    alone = place.ours()
    both = place.nodes(name="sample") | place.nodes(Use(), Use(1, 1), name="steered")
    plain, steered = place.run(both, "sample", "steered")
    assert torch.equal(plain, alone)
    assert torch.equal(steered, place.ours(Use(), Use(1, 1)))
    assert not torch.equal(plain, steered)
    assert torch.equal(place.ours(Use(strength=0)), alone)


def test_it_goes_through_its_network_once_a_step_and_only_within_its_window(sd, monkeypatch):
    calls: list[int] = []
    real = control_net.ControlNetwork.residuals

    def counted(self: Any, step: control_net.Step, seen: list[torch.Tensor]) -> Any:
        calls.append(len(step.latents))
        return real(self, step, seen)

    monkeypatch.setattr(control_net.ControlNetwork, "residuals", counted)
    for use, rows in ((Use(), [2] * 4), (Use(end=0.5), [2, 2]), (Use(start=0.6), [2]), (Use(end=0.2), [])):
        calls.clear()
        sd.ours(use)
        assert calls == rows
    calls.clear()
    sd.ours(Use(unwanted=False))
    assert calls == [1] * 4


def test_the_negative_branch_can_be_left_out_or_steered_by_pictures_of_its_own(sd):
    both, wanted, none = sd.ours(Use()), sd.ours(Use(unwanted=False)), sd.ours()
    own = sd.ours(Use(), negative=(Use(1, 1),))
    assert len({tuple(made.flatten().tolist()) for made in (both, wanted, none, own)}) == 4
    assert error(sd.ours(Use(), negative=(Use(),)), both) < LIMIT
    assert error(sd.ours(Use(unwanted=False), negative=(Use(),)), both) < LIMIT


def prompt(width: int, *controls: Control) -> Conditioning:
    return Conditioning(torch.zeros(1, 3, width), "kind", controls=controls)


HANDLE = ControlNet("canny", "d", "stable_diffusion", "", width=768)


def test_a_network_for_wider_prompts_is_refused_before_anything_is_sampled():
    from graphengine.nodes.control_net import ApplyControlNet  # pyright: ignore[reportMissingImports]

    with pytest.raises(ValueError, match=r"canny reads text features of width 768, and the prompt has 1024"):
        run_node(ApplyControlNet, conditioning=prompt(1024), control_net=HANDLE, image=picture())
    with pytest.raises(ValueError, match=r"must end \(0.2\) after it starts"):
        run_node(ApplyControlNet, conditioning=prompt(768), control_net=HANDLE, image=picture(), start=0.5, end=0.2)


def test_a_model_of_another_family_is_refused(sd, tmp_path):
    other = Place(tmp_path, "SDXL")
    other.networks[0].register_to_config(addition_embed_type=None, cross_attention_dim=32)
    other.networks[0].save_config(tmp_path / "controlnet" / "net0")
    handle = control_files.find("net0", other.settings).handle()
    assert handle.family == "stable_diffusion"
    network = sd.settings.model_folders[0] / "controlnet" / "net0" / "config.json"
    (tmp_path / "controlnet" / "net0" / "config.json").write_text(
        network.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 80')
    )
    with pytest.raises(NodeError, match=r"net0 steers stable_diffusion, but model is stable_diffusion_xl"):
        other.ours(Use())


def test_a_network_of_other_layers_is_refused_and_so_is_a_family_that_takes_none(sd):
    network = control_net.load(control_files.find("net0", sd.settings), "cpu", torch.float32)
    config = dict(sd.pipe.unet.config)
    network.check(config)
    for key, value in (("block_out_channels", [32, 64]), ("layers_per_block", 2), ("in_channels", 3)):
        with pytest.raises(CheckpointError, match="was made for another model"):
            network.check(config | {key: value})

    from graphengine.models.families.sana import Denoiser

    with pytest.raises(CheckpointError, match="net0 cannot steer this model"):
        Denoiser.check_control(object.__new__(Denoiser), network)


def test_a_prompt_with_pictures_is_not_stored_and_one_without_is():
    with pytest.raises(codec.NotStorable, match="Control"):
        codec.encode({"conditioning": prompt(8, Control(HANDLE, picture()))}, {})
    read = codec.decode(codec.encode({"conditioning": prompt(8)}, {}))[0]["conditioning"]
    assert read.controls == ()


def test_a_hint_of_another_size_is_resized_and_hints_must_be_one_or_as_many_as_the_pictures(sd):
    image = sd.hints[0].resize((32, 32), PIL.Image.Resampling.NEAREST)
    network = control_net.load(control_files.find("net0", sd.settings), "cpu", torch.float32)
    pixels = np.asarray(image, np.float32)[None] / 255
    small = Control(HANDLE, graphengine.Image(pixels))
    ready = control_net.prepare(small, network, (2, 8, 8), "cpu", [3.0, 1.0])
    assert ready is not None
    assert ready.hint[0].shape == (1, 3, SIZE, SIZE)
    three = Control(HANDLE, graphengine.Image(np.repeat(pixels, 3, 0)))
    with pytest.raises(ValueError, match="3 hints cannot be shared out over 2 pictures"):
        control_net.prepare(three, network, (2, 8, 8), "cpu", [1.0])


def test_it_is_found_wherever_models_of_its_kind_lie(sd, tmp_path):
    net = sd.folder / "controlnet" / "net0"
    shutil.copytree(net, tmp_path / "models" / "t2i_adapter" / "beside")
    shutil.copytree(net, tmp_path / "elsewhere" / "named")
    paths = tmp_path / "paths.yaml"
    paths.write_text(f"mine:\n  base_path: {tmp_path}\n  controlnet: elsewhere\n")
    own = settings(tmp_path).model_copy(update={"model_paths_file": paths})
    digests = {control_files.find(name, own).digest for name in ("beside", "named")}
    assert digests == {control_files.at(net, own).digest}


def test_what_is_no_controlnet_is_refused_with_what_was_seen(sd, tmp_path):
    own = settings(tmp_path)
    folder = tmp_path / "models" / "controlnet"
    folder.mkdir(parents=True)

    def refused(name: str, match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            control_files.find(name, own)

    refused("canny", "there is no ControlNet 'canny'")
    (folder / "bare").mkdir()
    refused("bare", r"has no config\.json")
    sd.pipe.unet.save_pretrained(folder / "unet")
    refused("unit", "Did you mean unet")
    refused("unet", "unet is a UNet2DConditionModel; expected a ControlNetModel or a T2IAdapter")
    (folder / "old.pth").write_bytes(b"PK")
    refused("old.pth", "is a pickle")
    for name, tensor, match in (("other", "weight", "is no ControlNet. No known layout has these tensors"),):
        save_file({tensor: torch.zeros(1)}, folder / f"{name}.safetensors")
        refused(f"{name}.safetensors", match)
    weights = load_file(sd.folder / "controlnet" / "net0" / "diffusion_pytorch_model.safetensors")
    save_file(weights, folder / "narrow.safetensors")
    refused("narrow.safetensors", "is no ControlNet. No known layout has these tensors")
    for name, match in (
        ("sd1_t2i_adapter", "holds a t2i_adapter of stable_diffusion"),
        ("flux_controlnet", "holds a controlnet of flux"),
        ("sd1_diffusers", "holds a denoiser"),
    ):
        with pytest.raises(CheckpointError, match=match):
            control_files.single(layout(name)[0], name)


@pytest.mark.parametrize("names", ["ldm", "diffusers"])
@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl"])
def test_a_single_file_gets_the_config_and_the_names_of_the_model_that_it_was_made_for(model, names):
    header = layout(f"{model}_controlnet_{names}")[0]
    config, prefix = control_files.single(header, "canny")
    assert prefix == {"ldm": "control_model.", "diffusers": None}[names]
    with torch.device("meta"):
        given = {name: torch.empty(info.shape) for name, info in header.items()}
        if prefix is not None:
            short = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
            given = ldm.renamed(short, control_files.table(config))
        kind = library("diffusers").ControlNetModel
        wanted = kind.from_config({key: value for key, value in config.items() if key in known(kind)}).state_dict()
    assert {name: tensor.shape for name, tensor in given.items()} == {n: t.shape for n, t in wanted.items()}


def test_the_workflow_steers_by_the_picture_that_it_is_given(sd, workflows):
    document = json.loads((workflows / "control_net.json").read_text())
    document["outputs"]["latent"] = {"from": "sample.latent"}
    inputs = {"checkpoint": "model", "control_net": "net0", "width": SIZE, "height": SIZE, "steps": 2}

    def drawn(**changes: Any) -> Any:
        with Engine(settings=sd.settings, cached=False) as engine:
            return engine.submit(document, inputs | changes).result()

    first, second, plain = drawn(image="hint0.png"), drawn(image="hint1.png"), drawn(image="hint1.png", strength=0.0)
    assert first["image"].size == (SIZE, SIZE)
    assert error(first["latent"].samples, second["latent"].samples) > CONTROL
    assert error(second["latent"].samples, plain["latent"].samples) > CONTROL
