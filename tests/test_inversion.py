"""Inversion finds the noise that a picture is drawn from: it comes back, and another prompt changes what it names."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families.harness import LIMIT, error
from PIL import Image as pillow

from graphengine import Engine, NodeError
from graphengine.diffusion.flow import FlowSchedule
from graphengine.diffusion.inversion import invert
from graphengine.diffusion.sigmas import NoiseSchedule, sigma_schedule
from graphengine.models.family import DenoiserAdapter
from graphengine.models.inversion import disagreement, inverted, inverted_singly, null_text
from graphengine.models.sampling import Request, sample, sample_singly
from graphengine.store import codec
from graphengine.testing import half_mask, settings
from graphengine.training.checker import facts, read
from graphengine.training.scenes import Scene, Thing, caption, draw
from graphengine.trajectory import LevelFeatures, Trajectory
from graphengine.values import Conditioning, Guider, Latent, LatentSpace

SPACE = LatentSpace(4, 8, "test")
SCHEDULES = {"noise": NoiseSchedule.scaled_linear(), "flow": FlowSchedule(3.0)}
BEFORE = Scene((Thing("red", "circle", "large"),), "blue")
AFTER = Scene((Thing("yellow", "circle", "large"),), "blue")
DRAWN = draw(BEFORE, np.random.default_rng(3))


class Gaussian(DenoiserAdapter):
    """The exact denoiser of normal data about what the prompt says, and a ripple, in place of a network."""

    device = "cpu"

    def __init__(self, schedule: Any = SCHEDULES["noise"]):
        self.schedule, self.calls = schedule, 0

    def denoise(self, x, sigma, prompts):
        self.calls += 1
        mean = prompts.features.mean((1, 2))[:, None, None, None]
        return mean + (x - mean) / (1 + sigma**2) + 0.05 * torch.sin(3 * x / (1 + sigma))


def prompt(value=0.2, batch=1):
    rows = value * torch.arange(1, batch + 1)[:, None, None]
    return Conditioning(rows.expand(batch, 3, 2).float(), "test")


def request(inversion=None, start=0.0, positive=None, sampler="ddim", stop=1.0):
    asked = positive or prompt()
    return Request(asked, None, Guider(1.0), 0, 10, sampler, "simple", 1.0, start, stop, inversion=inversion)


def nothing(*told):
    pass


def clean(batch=1):
    return Latent(torch.randn(batch, 4, 6, 6, generator=torch.Generator().manual_seed(1)), SPACE)


@pytest.mark.parametrize("name", SCHEDULES)
def test_sampling_back_gives_the_latent_again_the_nearer_the_more_iterations(name):
    model, latent = Gaussian(SCHEDULES[name]), clean()
    errors = []
    for fixed_point in (0, 2, 12):
        way = inverted(model, latent, request(), fixed_point, nothing)
        errors.append(error(sample(model, latent, request(way), nothing), latent.samples))
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and errors[2] < 1e-4


def test_inversion_without_iterations_is_that_of_diffusers():
    from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler

    kinds: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    theirs = DDIMInverseScheduler(
        **kinds, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, prediction_type="epsilon"
    )
    theirs.set_timesteps(10)
    schedule, x = NoiseSchedule.scaled_linear(), clean().samples

    def network(scaled, level):
        return torch.tanh(scaled) * (1 + level)

    def denoise(x, sigma):
        return x - sigma * network(x / (1 + sigma**2) ** 0.5, schedule.timestep_at(sigma) / 1000)

    ours = x
    for step in invert(denoise, x.double(), sigma_schedule("simple", schedule, 10).double(), schedule):
        ours = step.x / (1 + step.sigma**2) ** 0.5
    for timestep in theirs.timesteps:
        scale = network(x, timestep / 1000)
        x = theirs.step(scale, int(timestep), x, return_dict=False)[0]
    assert error(ours.float(), x) < LIMIT


def test_a_step_costs_one_network_call_and_one_for_each_iteration():
    for fixed_point in (0, 3):
        model = Gaussian()
        inverted(model, clean(), request(), fixed_point, nothing)
        assert model.calls == 10 * (fixed_point + 1)


def test_sampling_may_begin_anywhere_on_the_way():
    model, latent = Gaussian(), clean()
    whole = inverted(model, latent, request(), 12, nothing)
    half = inverted(model, latent, request(start=0.5), 12, nothing)
    assert len(whole.sigmas) == 11 and len(half.sigmas) == 6
    for way in (whole, half):
        assert error(sample(model, latent, request(way, start=0.6), nothing), latent.samples) < 1e-4
    assert torch.equal(whole.samples[5], half.samples[5])


def test_a_level_that_the_inversion_did_not_come_by_is_refused():
    model, latent = Gaussian(), clean()
    half = inverted(model, latent, request(start=0.5), 0, nothing)
    with pytest.raises(ValueError, match=r"comes by noise level .*Give the sampler the steps"):
        sample(model, latent, request(half), nothing)


def test_a_share_of_no_step_is_refused():
    with pytest.raises(ValueError, match=r"a share of 0\.01 of 10 steps is no step"):
        inverted(Gaussian(), clean(), request(start=0.99), 0, nothing)


def test_a_blank_canvas_is_refused():
    with pytest.raises(ValueError, match="nothing to invert"):
        inverted(Gaussian(), Latent(torch.zeros(1, 4, 6, 6), SPACE, empty=True), request(), 0, nothing)


def test_picture_by_picture_gives_the_same():
    model, latent, asked = Gaussian(), clean(3), prompt(batch=3)
    whole = inverted(model, latent, request(positive=asked), 2, nothing)
    singly = inverted_singly(model, latent, request(positive=asked), 2, nothing)
    assert error(singly.samples, whole.samples) < LIMIT
    back = request(whole, positive=asked)
    assert error(sample_singly(model, latent, back, nothing), sample(model, latent, back, nothing)) < LIMIT


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_outside_a_mask_the_latent_stays_on_its_way(name, sampler):
    model, latent = Gaussian(SCHEDULES[name]), clean()
    way = inverted(model, latent, request(), 2, nothing)
    masked = Latent(latent.samples, SPACE, half_mask(48, 48))
    made = sample(model, masked, request(way, positive=prompt(3.0), sampler=sampler), nothing)
    assert error(made[..., :3], latent.samples[..., :3]) < 1e-4
    assert error(made[..., 3:], latent.samples[..., 3:]) > 0.1
    assert error(sample(model, masked, request(way, start=0.5), nothing)[..., :3], latent.samples[..., :3]) < 1e-4


def test_prompts_that_say_the_same_disagree_nowhere_and_others_in_each_picture_somewhere():
    model, latent = Gaussian(), clean(2)
    same = disagreement(model, latent, request(), request(), 0.5, 2, nothing)
    other = disagreement(model, latent, request(), request(positive=prompt(1.0)), 0.5, 2, nothing)
    assert not same.any() and torch.allclose(other.amax((1, 2)), torch.ones(2))


def test_a_trajectory_is_told_by_its_shape():
    with pytest.raises(ValueError, match="Trajectory wants"):
        Trajectory(torch.zeros(3, 1, 4, 2, 2), (0.0, 1.0), SPACE)
    way = Trajectory(torch.zeros(2, 1, 4, 2, 2), (0.0, 1.0), SPACE)
    with pytest.raises(ValueError, match="Link the latent that was inverted"):
        way.check(Latent(torch.zeros(1, 4, 4, 4), SPACE))
    with pytest.raises(ValueError, match="another model"):
        way.check(Latent(torch.zeros(1, 4, 2, 2), LatentSpace(4, 8, "other")))


# Null-text inversion


def guided(way, positive=None, scale=3.0, negative=0.0):
    own = positive or prompt(batch=len(way.samples[0]))
    return Request(own, prompt(negative), Guider(scale), 0, 10, "ddim", "simple", inversion=way)


@pytest.mark.parametrize("name", SCHEDULES)
def test_with_a_fitted_negative_prompt_guided_sampling_comes_back(name):
    model, latent = Gaussian(SCHEDULES[name]), clean()
    asked = guided(inverted(model, latent, request(), 8, nothing))
    loose = error(sample(model, latent, asked, nothing), latent.samples)
    fitted = null_text(model, latent, asked, 200, 0.05, nothing)
    assert asked.negative is not None
    back = replace(asked, negative=replace(asked.negative, by_level=fitted))
    assert error(sample(model, latent, back, nothing), latent.samples) < 0.1 * loose


def test_each_picture_of_a_batch_gets_the_prompt_that_it_gets_alone():
    model, latent = Gaussian(), clean(3)
    asked = guided(inverted(model, latent, request(positive=prompt(batch=3)), 2, nothing))
    whole = null_text(model, latent, asked, 5, 0.05, nothing)
    assert whole.features.shape == (10, 3, 3, 2)
    for row in range(3):
        own = Latent(latent.samples[row : row + 1], SPACE)
        single = replace(
            asked, positive=prompt(0.2 * (row + 1)), inversion=asked.inversion and asked.inversion.row(row)
        )
        alone = null_text(model, own, single, 5, 0.05, nothing)
        assert error(whole.features[:, row : row + 1], alone.features) < LIMIT


def test_fitted_prompts_go_picture_by_picture_too():
    model, latent = Gaussian(), clean(2)
    asked = guided(inverted(model, latent, request(positive=prompt(batch=2)), 2, nothing))
    assert asked.negative is not None
    fitted = replace(asked.negative, by_level=null_text(model, latent, asked, 3, 0.05, nothing))
    back = replace(asked, negative=fitted)
    assert error(sample_singly(model, latent, back, nothing), sample(model, latent, back, nothing)) < LIMIT


def test_a_fitted_prompt_is_refused_at_levels_that_it_was_not_fitted_to():
    model, latent = Gaussian(), clean()
    asked = guided(inverted(model, latent, request(), 2, nothing))
    assert asked.negative is not None
    fitted = replace(asked.negative, by_level=null_text(model, latent, asked, 1, 0.05, nothing))
    with pytest.raises(ValueError, match=r"for which NullText has fitted no prompt"):
        sample(model, latent, replace(asked, negative=fitted, inversion=None, steps=7), nothing)


def test_without_guidance_there_is_nothing_to_fit():
    model, latent = Gaussian(), clean()
    with pytest.raises(ValueError, match="there is no negative prompt to be fitted"):
        null_text(model, latent, guided(inverted(model, latent, request(), 0, nothing), scale=1.0), 1, 0.05, nothing)


def test_a_fitted_prompt_survives_the_disk_cache():
    levels = LevelFeatures(torch.rand(2, 1, 3, 2), (2.0, 1.0))
    kept = codec.decode(codec.encode({"negative": replace(prompt(), by_level=levels)}, {}))[0]["negative"]
    assert torch.equal(kept.by_level.features, levels.features) and kept.by_level.sigmas == (2.0, 1.0)


# The workflow


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    pillow.fromarray(DRAWN).save(folder / "picture.png")
    with Engine(settings=settings(folder)) as made:
        yield made


def quick(workflows, **changes):
    """The workflow with few steps, and `node_input` changed."""
    document = json.loads((workflows / "edit_by_inversion.json").read_text())
    document["nodes"]["picture"]["inputs"]["file"] = "picture.png"
    document["nodes"]["source"]["inputs"]["text"] = caption(BEFORE)
    document["nodes"]["prompt"]["inputs"]["text"] = caption(AFTER)
    for node in ("invert", "sample"):
        document["nodes"][node]["inputs"]["steps"] = 12
    for name, value in changes.items():
        node, port = name.split("__")
        document["nodes"][node]["inputs"][port] = value
    return document


def test_the_edit_changes_what_the_prompt_changes_and_nothing_else(engine, workflows):
    result = engine.submit(quick(workflows)).result(60)
    picture = (result["image"].pixels[0] * 255).round().astype(np.uint8)
    assert facts(AFTER, read(picture))["all"]
    outside = result["mask"].alpha[0] == 0
    assert outside.any() and abs(picture[outside].astype(int) - DRAWN[outside]).mean() < 10


def test_with_its_own_prompt_the_picture_comes_back(engine, workflows):
    document = quick(workflows, prompt__text=caption(BEFORE), sample__latent={"from": "encode.latent"})
    document["nodes"]["plain"] = {
        "type": "VAEDecode",
        "inputs": {"vae": {"from": "load.vae"}, "latent": {"from": "encode.latent"}},
    }
    document["nodes"]["compare"] = {
        "type": "CompareImages",
        "inputs": {"image": {"from": "decode.image"}, "other": {"from": "plain.image"}},
    }
    document["outputs"] = {"psnr": {"from": "compare.psnr"}}
    del document["nodes"]["difference"], document["nodes"]["limit"]
    assert engine.submit(document).result(60)["psnr"] > 35


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample__steps": 11}, "which the inversion did not come by"),
        ({"sample__denoise": 0.7}, "which the inversion did not come by"),
        ({"invert__share": 0.5}, "which the inversion did not come by"),
        ({"invert__share": 0.01}, "is no step"),
        ({"prompt__text": caption(BEFORE)}, "the two prompts ask for the same"),
    ],
)
def test_what_does_not_go_together_is_told_in_a_sentence(engine, workflows, changes, sentence):
    with pytest.raises(NodeError, match=sentence):
        engine.submit(quick(workflows, **changes)).result(60)


def test_a_blank_canvas_and_a_latent_of_another_size_are_refused(engine, workflows):
    document = quick(workflows)
    document["nodes"]["blank"] = {"type": "EmptyLatent", "inputs": {"vae": {"from": "load.vae"}, "width": 96}}
    for node, sentence in (("invert", "nothing to invert"), ("difference", "nothing to compare")):
        changed = json.loads(json.dumps(document))
        changed["nodes"][node]["inputs"]["latent"] = {"from": "blank.latent"}
        with pytest.raises(NodeError, match=sentence):
            engine.submit(changed).result(60)
    document["nodes"]["sample"]["inputs"]["latent"] = {"from": "blank.latent"}
    with pytest.raises(NodeError, match="Link the latent that was inverted"):
        engine.submit(document).result(60)


def test_null_text_comes_back_and_changes_the_word(engine, workflows):
    document = json.loads((workflows / "null_text.json").read_text())
    for node in ("invert", "loosely", "back", "sample"):
        document["nodes"][node]["inputs"]["steps"] = 10
    asked = {"image": "picture.png", "source": caption(BEFORE), "prompt": caption(AFTER)}
    made = engine.submit(document, asked).result(60)
    assert made["fitted"] > made["loose"] + 3
    assert facts(AFTER, read((made["image"].pixels[0] * 255).round().astype(np.uint8)))["all"]
