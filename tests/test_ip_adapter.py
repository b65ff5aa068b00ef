"""Pictures as prompts: equal to diffusers' IP-Adapter, in their share of the steps alone, and seen by nobody else."""

import inspect
import json
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from families.harness import CONTROL, LIMIT, OTHER, error
from pictured_models import PIXELS, Place, Show, adapter, link
from safetensors.torch import save_file
from test_patches import header_alone

from graphengine import Conditioning, Engine, NodeError
from graphengine.errors import CheckpointError
from graphengine.guiding import ClipVision, IPAdapter, PicturePrompt
from graphengine.models import ip_adapter, ip_adapter_files, ip_adapter_reading
from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.models.sampling import Request, sample, sample_singly
from graphengine.models.variant import variant
from graphengine.store import codec
from graphengine.testing import picture, run_node
from graphengine.values import Guider, Latent


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("sd"), "SD")


@pytest.fixture(scope="module")
def xl(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("xl"), "SDXL")


EQUAL = {
    "plain": (Show(),),
    "full": (Show("full", 1),),
    "plus": (Show("plus"),),
    "plain and plus": (Show(), Show("plus", 1, 0.5)),
    "two of a kind": (Show(), Show("second", 1)),
}


def check_equal(place: Place, shows: tuple[Show, ...]) -> None:
    theirs, ours = place.theirs(*shows), place.ours(*shows)
    assert error(ours, theirs) < LIMIT
    for changed in (replace(shows[0], picture=1 - shows[0].picture), replace(shows[0], strength=0.4)):
        assert error(place.ours(changed, *shows[1:]), theirs) > CONTROL


@pytest.mark.parametrize("name", EQUAL)
def test_it_is_equal_to_the_pipeline_and_without_it_is_not(sd, name):
    check_equal(sd, EQUAL[name])


def test_of_sdxl_it_is_equal_too(xl):
    check_equal(xl, EQUAL["plain and plus"])


def test_text_and_picture_both_count(sd):
    ours = sd.ours(Show())
    assert error(sd.ours(), ours) > CONTROL
    assert error(sd.ours(Show(), prompt=OTHER), ours) > CONTROL


def test_a_branch_beside_it_draws_bit_for_bit_what_it_draws_alone(sd):
    alone = sd.ours()
    both = sd.nodes(name="sample") | sd.nodes(Show(), Show("plus", 1), name="shown")
    plain, shown = sd.run(both, "sample", "shown")
    assert torch.equal(plain, alone)
    assert not torch.equal(plain, shown)
    assert torch.equal(sd.ours(Show(strength=0.0)), alone)


def test_the_order_of_pictures_plays_no_role_but_for_rounding(sd):
    first, second = Show(), Show("plus", 1, 0.5)
    assert error(sd.ours(second, first), sd.ours(first, second)) < LIMIT


def test_a_picture_is_shown_in_its_share_of_the_steps_alone(sd, monkeypatch):
    calls: list[int] = []
    real = ip_adapter.Seeing.__call__

    def counted(self: Any, *args: Any, ip_hidden_states: Any = (), **kwargs: Any) -> Any:
        calls.append(sum(each.rows[1] - each.rows[0] for each in ip_hidden_states))
        return real(self, *args, ip_hidden_states=ip_hidden_states, **kwargs)

    counted.__signature__ = inspect.signature(real)  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(ip_adapter.Seeing, "__call__", counted)
    layers = len(sd.adapters["plain"]) // 2 - 2
    for show, rows in ((Show(), [2] * 4), (Show(end=0.5), [2, 2, 0, 0]), (Show(start=0.75), [0, 0, 0, 2])):
        calls.clear()
        sd.ours(show)
        assert calls[::layers] == rows
    assert torch.equal(sd.ours(Show(start=0.5, end=0.51)), sd.ours())


def test_two_pictures_by_one_adapter_add_up(sd):
    both = sd.ours(Show(strength=0.4), Show(picture=1, strength=0.4))
    for one in (sd.ours(Show(strength=0.4)), sd.ours(Show(picture=1, strength=0.4))):
        assert error(both, one) > CONTROL
    assert error(sd.ours(Show(strength=0.4), Show(strength=0.4)), sd.ours(Show())) < LIMIT


def test_a_negative_prompt_can_have_pictures_of_its_own(sd):
    plain, own = sd.ours(Show()), sd.ours(Show(), negative=(Show(picture=1),))
    assert error(own, plain) > CONTROL
    assert error(sd.ours(negative=(Show(picture=1),)), sd.ours()) > CONTROL


def test_each_picture_of_a_batch_sees_its_own(sd):
    memory = ModelMemory(sd.settings)
    denoiser, encoder, _ = find("model", sd.settings).handles()
    own = ip_adapter_files.adapter("plain.safetensors", sd.settings)
    seeing = memory.clip_vision(ip_adapter_files.vision("small", sd.settings).handle())
    wanted, unwanted = memory.ip_adapter(own).tokens(seeing, seeing.ready(sd.pictures))
    words, none = (Conditioning(memory.text_encoder(encoder).encode(text).features, "") for text in (OTHER, ""))
    space = denoiser.space
    assert space

    def made(draw: Any, seed: int, tokens: torch.Tensor) -> torch.Tensor:
        shown = (PicturePrompt(own, tokens, unwanted),)
        request = Request(replace(words, pictures=shown), none, Guider(3.0), seed, 3, "euler", "simple")
        latent = Latent(torch.zeros(len(tokens), 4, 8, 8), space)
        return draw(memory.denoiser(denoiser.patched(own.patch())), latent, request, lambda *told: None)

    both = made(sample, 5, wanted)
    assert error(made(sample_singly, 5, wanted), both) < LIMIT
    for row in range(2):
        assert error(made(sample, 5 + row, wanted[row : row + 1]), both[row : row + 1]) < LIMIT
        assert error(made(sample, 5 + row, wanted[1 - row : 2 - row]), both[row : row + 1]) > CONTROL
    with pytest.raises(ValueError, match="3 pictures cannot be shown to a batch of 2"):
        ip_adapter.shown((PicturePrompt(own, wanted[:1].expand(3, -1, -1), unwanted),), 2, "cpu", [1.0])


def test_it_goes_with_perturbed_attention(sd):
    nodes = sd.nodes(Show(), guidance=link("push.guidance"))
    nodes["push"] = {"type": "PerturbedAttention", "inputs": {"scale": 2.0}}
    assert error(sd.run(nodes, "sample")[0], sd.ours(Show())) > CONTROL


@pytest.mark.parametrize("size", [(64, 40), (23, 50), (16, 16), (300, 16), (17, 400)])
def test_a_picture_is_prepared_as_transformers_does_it(size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = PIL.Image.fromarray(levels)
    for side in (PIXELS, 224):
        theirs = CLIPImageProcessorPil(size=side, crop_size=side)(image, return_tensors="np").pixel_values[0]
        ours = ip_adapter_reading.prepared(image, side)
        assert ours.shape == theirs.shape
        assert abs(ours - theirs).max() < 1e-6


def test_nothing_that_is_shared_is_written_to_and_weights_are_counted_once(sd):
    memory = ModelMemory(sd.settings)
    handle = find("model", sd.settings).handles()[0]
    plain: Any = memory.denoiser(handle)
    before = {name: tensor.clone() for name, tensor in plain.network.state_dict().items()}
    own = ip_adapter_files.adapter("plain.safetensors", sd.settings)
    held = memory.held
    made: Any = memory.denoiser(handle.patched(own.patch()))
    assert made.network.conv_in.weight is plain.network.conv_in.weight
    assert plain.network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.network.state_dict().items())
    pairs = [tensor for name, tensor in sd.adapters["plain"].items() if name.startswith("ip_adapter.")]
    assert memory.held - held == sum(tensor.nbytes for tensor in pairs)


# What is refused


def prompt(width: int) -> Conditioning:
    return Conditioning(torch.zeros(1, 3, width), "kind")


def test_what_does_not_go_together_is_refused_before_anything_is_loaded():
    from graphengine.nodes.ip_adapter import ApplyIPAdapter  # pyright: ignore[reportMissingImports]

    own = IPAdapter("face", "d", "", "", kind="plain", reads=1024, width=768)
    seen = ClipVision("vit", "d", "", "", width=1024, hidden=1280)
    with pytest.raises(ValueError, match="face goes with prompts of width 768, and the prompt has 2048"):
        run_node(ApplyIPAdapter, conditioning=prompt(2048), ip_adapter=own, clip_vision=seen, image=picture())
    plus = replace(own, kind="plus")
    with pytest.raises(ValueError, match="face reads what is 1024 wide, and the CLIP vision model vit sees 1280"):
        run_node(ApplyIPAdapter, conditioning=prompt(768), ip_adapter=plus, clip_vision=seen, image=picture())
    with pytest.raises(ValueError, match=r"must end \(0.2\) after it starts"):
        run_node(
            ApplyIPAdapter,
            conditioning=prompt(768),
            ip_adapter=own,
            clip_vision=seen,
            image=picture(),
            start=0.5,
            end=0.2,
        )


def test_an_adapter_for_another_model_is_refused(sd, xl):
    other = xl
    plain: Any = ModelMemory(sd.settings).denoiser(find("model", sd.settings).handles()[0])
    with pytest.raises(
        CheckpointError, match=r"plain.safetensors was made for another model: it has \d+ layers, this one"
    ):
        variant(plain, (ip_adapter_files.adapter("plain.safetensors", other.settings).patch(),))
    wide = {name: torch.cat([t, t], 1) if "to_k_ip" in name else t for name, t in sd.adapters["plain"].items()}
    save_file(wide, xl.folder / "ipadapter" / "wide.safetensors")
    with pytest.raises(CheckpointError, match=r"made for another model: the keys or values for .* its own"):
        variant(plain, (ip_adapter_files.adapter("wide.safetensors", other.settings).patch(),))
    with pytest.raises(CheckpointError, match="shows pictures to a U-Net; this model is a Linear"):
        ip_adapter.install(torch.nn.Linear(1, 1), ip_adapter_files.adapter("plain.safetensors", sd.settings).patch())
    with pytest.raises(NodeError, match="goes with prompts of width"):
        (sd.folder / "ipadapter" / "xl.safetensors").write_bytes(
            (xl.folder / "ipadapter" / "plain.safetensors").read_bytes()
        )
        sd.ours(Show("xl"))


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["weight"], "is no IP-Adapter: it holds weight; expected image_proj"),
        (
            ["image_proj.proj.0.weight", "image_proj.proj.2.weight", "image_proj.norm.weight", "ip_adapter.0.x"],
            "a face's identity",
        ),
        (["image_proj.odd", "ip_adapter.1.to_k_ip.weight"], "in an unknown way"),
    ],
)
def test_what_is_no_adapter_is_refused_with_what_was_seen(sd, names, match):
    save_file({name: torch.zeros(2, 2) for name in names}, sd.folder / "ipadapter" / "odd.safetensors")
    with pytest.raises(CheckpointError, match=match):
        ip_adapter_files.adapter("odd.safetensors", sd.settings)


def test_what_is_no_vision_model_is_refused_with_what_was_seen(sd):
    folder = sd.folder / "clip_vision"
    sd.pipe.text_encoder.save_pretrained(folder / "text")
    (folder / "old.bin").write_bytes(b"PK")
    save_file({"weight": torch.zeros(1)}, folder / "odd.safetensors")
    for name, match in (
        ("text", "is a CLIPTextModel; expected a CLIPVisionModelWithProjection"),
        ("old.bin", "is a pickle"),
        ("odd.safetensors", "is no CLIP vision model .* it holds weight"),
        ("smal", "there is no CLIP vision model 'smal'.*small"),
    ):
        with pytest.raises(CheckpointError, match=match):
            ip_adapter_files.vision(name, sd.settings)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"image_proj.proj.weight": torch.zeros(7, 24)},
            "the part of bad.safetensors that reads pictures cannot be used",
        ),
        ({"image_proj.norm.weight": torch.zeros(0)}, "that reads pictures cannot be used"),
        ({"image_proj.proj.bias": torch.zeros(128, dtype=torch.int32)}, "holds no fractions"),
    ],
)
def test_a_damaged_adapter_is_refused_with_a_sentence(sd, change, match):
    save_file(sd.adapters["plain"] | change, sd.folder / "ipadapter" / "bad.safetensors")
    with pytest.raises(CheckpointError, match=match):
        ModelMemory(sd.settings).ip_adapter(ip_adapter_files.adapter("bad.safetensors", sd.settings))


def test_a_changed_file_fails_the_run_that_was_planned_with_the_other(sd):
    path = sd.folder / "ipadapter" / "fickle.safetensors"
    save_file(adapter("plain", sd.pipe.unet), path)
    handle = ip_adapter_files.adapter("fickle.safetensors", sd.settings)
    save_file(adapter("plain", sd.pipe.unet), path)
    with pytest.raises(CheckpointError, match="was changed while the run went on"):
        ModelMemory(sd.settings).ip_adapter(handle)


@pytest.mark.parametrize(("name", "kind", "reads", "width"), [("sd1_ip_adapter", "plain", 1024, 768)])
def test_published_files_are_told_by_their_tensors(sd, name, kind, reads, width):
    header_alone(sd.folder / "ipadapter" / f"{name}.safetensors", name)
    handle = ip_adapter_files.adapter(f"{name}.safetensors", sd.settings)
    assert (handle.kind, handle.reads, handle.width) == (kind, reads, width)


def test_a_prompt_with_pictures_is_not_stored(sd):
    own = IPAdapter("face", "d", "", "")
    shown = PicturePrompt(own, torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))
    with pytest.raises(codec.NotStorable, match="PicturePrompt"):
        codec.encode({"conditioning": replace(prompt(8), pictures=(shown,))}, {})


def test_the_workflow_shows_the_picture_that_it_is_given(sd, workflows):
    document = json.loads((workflows / "ip_adapter.json").read_text())
    document["outputs"]["latent"] = link("sample.latent")
    inputs = {
        "checkpoint": "model",
        "ip_adapter": "plain.safetensors",
        "clip_vision": "small",
        "width": 64,
        "height": 64,
    }

    def drawn(**changes: Any) -> Any:
        with Engine(settings=sd.settings, cached=False) as engine:
            return engine.submit(document, inputs | {"steps": 2} | changes).result()["latent"].samples

    first, second = drawn(image="picture0.png"), drawn(image="picture1.png")
    none = drawn(image="picture1.png", strength=0.0)
    assert error(first, second) > CONTROL
    assert error(second, none) > CONTROL
