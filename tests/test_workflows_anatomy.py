"""The workflow that takes a U-Net apart: what its levels hold, and what it draws without the skips of one of them."""

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from graphengine.errors import CheckpointError
from graphengine.gallery.bench import Bench
from graphengine.gallery.figures import right
from graphengine.models.anatomy import SKIPS, FeatureRecorder, open_levels
from graphengine.models.family import Prompts
from graphengine.models.network import twin
from graphengine.models.sampling import sample, sample_singly
from graphengine.nodes.anatomy import CompareLevels  # pyright: ignore[reportMissingImports]
from graphengine.planes import resize_planes
from graphengine.testing import picture, run_node, settings
from graphengine.training.parse import parse

STAR = "a large red star on a blue background"
PROMPTS = ["a red circle and a blue square on a white background", "a small yellow star on a green background"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench.of("tiny", settings(tmp_path_factory.mktemp("bench")))


@pytest.fixture(scope="module")
def inputs(bench):
    canvas = bench.run("EmptyLatent", width=64, height=64, batch=len(PROMPTS)).latent
    ends = {"positive": bench.prompts(PROMPTS), "negative": bench.prompts([""])}
    return ends | {"latent": canvas, "steps": 4, "seed": 5}


def network(bench, *levels):
    denoiser = bench.denoiser
    for level in levels:
        denoiser = bench.run("RemoveSkips", denoiser=denoiser, level=level).denoiser
    return bench.context.models.denoiser(denoiser).network


def called(network):
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(x, torch.tensor([499]), torch.ones(1, 32, 128)).sample


# Feature maps


def test_looking_into_the_levels_changes_nothing_of_the_picture(bench, inputs):
    made, plain = bench.run("FeatureMaps", **inputs), bench.run("Sampler", **inputs)
    assert torch.equal(made.latent.samples, plain.latent.samples)


def test_each_level_has_a_sheet_and_is_told_with_its_channels_and_size(bench, inputs):
    made = bench.run("FeatureMaps", channels=5, tile=8, **inputs)
    assert made.labels[0] == "down 1\n96 channels, 8 x 8" and made.labels[2] == "middle\n160 channels, 4 x 4"
    assert [label.split("\n")[0] for label in made.labels] == ["down 1", "down 2", "middle", "up 2", "up 1"]
    assert made.levels == [1, 2]
    assert all(image.size == (3 * 8 + 4, 2 * 8 + 2) and len(image) == len(PROMPTS) for image in made.images)


def test_in_the_first_step_the_way_up_shows_the_thing_and_the_way_down_shows_noise(bench, inputs):
    own = inputs | {"positive": bench.prompts(["a large red circle on a blue background"] * 2)}
    made = bench.run("FeatureMaps", record_at=0, channels=1, tile=8, **own)
    drawn = bench.run("VAEDecode", latent=made.latent).image.pixels
    thing = resize_planes(drawn[..., :1].copy(), (8, 8), "bilinear")[..., 0] > 0.5
    down, up = (image.pixels[..., 0] - image.pixels[..., 2] for image in (made.images[0], made.images[-1]))
    for row in range(2):
        likeness = [abs(np.corrcoef(warmth[row].ravel(), thing[row].ravel())[0, 1]) for warmth in (down, up)]
        assert likeness[0] < 0.6 < 0.75 < likeness[1]


def test_the_step_that_is_looked_into_is_the_one_that_was_named(bench, inputs):
    first, last = (bench.run("FeatureMaps", record_at=at, **inputs).images[0] for at in (0, 1))
    assert (first.pixels != last.pixels).any()
    assert (bench.run("FeatureMaps", record_at=0, **inputs | {"steps": 8}).images[0].pixels == first.pixels).all()
    with pytest.raises(ValueError, match=r"the step at 0\.1 of the way is not among those that are done"):
        bench.run("FeatureMaps", record_at=0.1, start=0.5, **inputs)


def test_pictures_that_are_drawn_one_by_one_hold_the_same(bench, inputs):
    found = []
    for draw in (sample, sample_singly):
        sampler = bench.nodes["Sampler"].model_validate({"denoiser": bench.denoiser, **inputs})
        recorder = FeatureRecorder()
        model, request = sampler.asked(bench.context, recorder)
        draw(model, inputs["latent"], request, lambda done, total, denoised: None)
        found.append(recorder.features())
    assert all(torch.allclose(found[0][place], found[1][place], atol=1e-3) for place in found[0])
    assert found[0]["up 1"].shape == (len(PROMPTS), 96, 8, 8)


def test_levels_with_and_without_attention_are_told_at_their_own_size():
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16, 24),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    open_levels(unet)
    recorder, x = FeatureRecorder(), torch.zeros(1, 4, 16, 16)
    recorder.begins(x.shape, [1.0])
    recorder.listening(lambda x, *_: unet(x, 1, torch.zeros(1, 3, 8)).sample)(x, torch.tensor(1.0), Prompts(x))
    sizes = {place: tuple(maps.shape[1:3]) for place, maps in recorder.features().items()}
    ends = {"down 1": (8, 16), "down 2": (16, 8), "down 3": (24, 4), "middle": (24, 4)}
    assert sizes == ends | {"up 3": (24, 4), "up 2": (16, 8), "up 1": (8, 16)}


# Skip connections


@pytest.mark.parametrize("level", [1, 2])
def test_the_skips_of_one_level_are_zeros_and_those_of_the_other_are_as_they_were(bench, level):
    made, given = twin(network(bench, level)), []
    for block in made.up_blocks:
        block.register_forward_pre_hook(lambda _, __, named: given.insert(0, named[SKIPS]), with_kwargs=True)
    called(made)
    assert all((skip == 0).all() for skip in given[level - 1])
    assert all((skip != 0).any() for skip in given[2 - level])


def test_a_branch_beside_draws_as_ever_and_shares_the_weights(bench):
    plain = network(bench)
    before = called(plain)
    made = network(bench, 1)
    assert not torch.allclose(called(made), before, atol=1e-2)
    assert torch.equal(called(plain), before)
    assert made.conv_in.weight is plain.conv_in.weight


def test_levels_add_up_in_whatever_order(bench):
    both, turned = called(network(bench, 1, 2)), called(network(bench, 2, 1))
    assert torch.equal(both, turned)
    assert all((called(network(bench, level)) - both).abs().max() > 1e-2 for level in (1, 2))


def test_without_the_finest_level_pictures_are_no_longer_right(bench, inputs):
    scenes, shares = [parse(prompt) for prompt in PROMPTS], []
    for denoiser in (bench.denoiser, bench.run("RemoveSkips", level=1).denoiser):
        drawn = bench.run("Sampler", **inputs | {"denoiser": denoiser})
        shares.append(right(scenes, bench.run("VAEDecode", latent=drawn.latent).image))
    assert shares[0] == 1 and shares[1] <= 0.75


def test_the_finest_level_is_missed_more_than_the_next_one(engine, workflows):
    made = engine.submit(workflows / "unet_anatomy.json", {"prompt": STAR}).result(60)
    assert 10 < made["psnr"][0] < made["psnr"][1] - 5 < 35
    assert [image.size for image in made["others"]] == [(64, 64)] * 2


def test_a_level_that_is_not_there_is_told(bench, inputs):
    lacking = bench.run("RemoveSkips", level=3).denoiser
    with pytest.raises(CheckpointError, match="no level 3; it has 1, of the latent's size, to 2, the smallest"):
        bench.run("Sampler", **inputs | {"denoiser": lacking})


@pytest.mark.parametrize("node", ["FeatureMaps", "RemoveSkips"])
def test_a_network_without_levels_is_told(bench, inputs, node):
    denoiser = bench.run("LoadDenoiser", denoiser="tiny-dit").denoiser
    denoiser = bench.run(node, denoiser=denoiser, level=1).denoiser if node == "RemoveSkips" else denoiser
    with pytest.raises(CheckpointError, match="PixArtTransformer2DModel has no levels with skip connections; a U-Net"):
        bench.run("FeatureMaps" if node == "FeatureMaps" else "Sampler", **inputs | {"denoiser": denoiser})


def test_as_many_levels_as_pictures_are_compared():
    with pytest.raises(ValueError, match="2 levels for 1 pictures"):
        run_node(CompareLevels, intact=picture(), others=[picture(seed=1)], levels=[1, 2])
