"""Ways of guiding: each equal to its twin in diffusers, asked of the network only when wanted, seen by nobody else."""

import json
from copy import deepcopy
from typing import Any

import pytest
import torch
from families import pixart, stable_diffusion, stable_diffusion_xl
from families.harness import CONTROL, LIMIT, NEGATIVE, OTHER, PROMPT, SEED, STEPS, error, generator, library

from graphengine import Engine, NodeError
from graphengine.diffusion import guidance as guide
from graphengine.errors import CheckpointError
from graphengine.guiding import Perturbation
from graphengine.models import perturbed
from graphengine.models.families.stable_diffusion import Denoiser as Network
from graphengine.testing import run_node, settings
from graphengine.values import Guider

LAYERS = {"SD": "up_blocks.1", "SDXL": "mid"}


class Place:
    """A small checkpoint, and both ways of drawing with it."""

    def __init__(self, folder: Any, family: str):
        torch.manual_seed(0)
        self.family, self.folder = family, folder
        make = {"SD": stable_diffusion.CASES[0].make, "SDXL": stable_diffusion_xl.base}[family]
        self.pipe = make(folder / "model")
        self.pipe.set_progress_bar_config(disable=True)
        self.settings = settings(folder).model_copy(update={"model_folders": (folder,)})

    def nodes(
        self, guidance: Any, prompt: str = PROMPT, negative: bool = True, size: tuple[int, int] = (64, 64)
    ) -> dict:
        encode = {"encoder": {"from": "load.text_encoder"}}
        sampler = {
            "denoiser": {"from": "load.denoiser"},
            "positive": {"from": "positive.conditioning"},
            "latent": {"from": "empty.latent"},
            **({"negative": {"from": "negative.conditioning"}} if negative else {}),
            "seed": SEED,
            "steps": STEPS,
            "sampler": "euler",
            "schedule": "simple",
        }
        nodes = {
            "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "model"}},
            "positive": {"type": "EncodeText", "inputs": encode | {"text": prompt}},
            "negative": {"type": "EncodeText", "inputs": encode | {"text": NEGATIVE}},
            "empty": {
                "type": "EmptyLatent",
                "inputs": {"vae": {"from": "load.vae"}, "width": size[0], "height": size[1]},
            },
            "plain": {"type": "Sampler", "inputs": sampler | {"guidance": 3.0}},
        }
        last: Any = 3.0
        for number, (kind, inputs) in enumerate(guidance):
            own = inputs if kind == "Guidance" else {"guidance": last} | inputs
            nodes[f"guide{number}"] = {"type": kind, "inputs": own}
            last = {"from": f"guide{number}.guidance"}
        return nodes | {"sample": {"type": "Sampler", "inputs": sampler | {"guidance": last}}}

    def run(self, nodes: dict, *names: str) -> list[torch.Tensor]:
        outputs = {name: {"from": f"{name}.latent"} for name in names}
        with Engine(settings=self.settings, cached=False) as engine:
            made = engine.submit({"graphengine": 1, "name": "w", "nodes": nodes, "outputs": outputs}).result()
        return [made[name].samples for name in names]

    def ours(self, *guidance: Any, **changes: Any) -> torch.Tensor:
        return self.run(self.nodes(guidance, **changes), "sample")[0]

    def theirs(self, scale: float, pag: float, layers: str | None = None) -> torch.Tensor:
        """What the pipeline with perturbed attention draws."""
        name = {"SD": "StableDiffusionPAGPipeline", "SDXL": "StableDiffusionXLPAGPipeline"}[self.family]
        kind = getattr(library("diffusers"), name)
        more = {"requires_safety_checker": False} if self.family == "SD" else {"add_watermarker": False}
        made = kind(**self.pipe.components, pag_applied_layers=layers or LAYERS[self.family], **more)
        made.set_progress_bar_config(disable=True)
        before = dict(self.pipe.unet.attn_processors)
        with torch.no_grad():
            images = made(
                PROMPT,
                negative_prompt=NEGATIVE,
                height=64,
                width=64,
                num_inference_steps=STEPS,
                guidance_scale=scale,
                pag_scale=pag,
                generator=generator(),
                output_type="latent",
            ).images
        self.pipe.unet.set_attn_processor(before)
        return images

    def looped(self, guider: Any, clean: bool = False) -> torch.Tensor:
        """What diffusers' networks, scheduler and guider draw; `clean` hands the guider clean estimates."""
        pipe, names = self.pipe, ["encoder_hidden_states"]
        scheduler = pipe.scheduler
        with torch.no_grad():
            words = pipe.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
            scheduler.set_timesteps(STEPS)
            x = torch.randn(1, 4, 8, 8, generator=generator()) * scheduler.init_noise_sigma
            for step, t in enumerate(scheduler.timesteps):
                noise, signal = ((f(scheduler.alphas_cumprod[t])).sqrt() for f in (lambda a: 1 - a, lambda a: a))
                guider.set_state(step=step, num_inference_steps=STEPS, timestep=t)
                batches = guider.prepare_inputs({names[0]: (words[0], words[1])})
                for batch in batches:
                    if type(guider).__name__ == "SmoothedEnergyGuidance":
                        guider._count_prepared += 1  # it forgets to, and then hooks nothing
                    guider.prepare_models(pipe.unet)
                    batch.noise_pred = pipe.unet(x, t, batch.encoder_hidden_states, return_dict=False)[0]
                    if clean:
                        batch.noise_pred = (x - noise * batch.noise_pred) / signal
                    guider.cleanup_models(pipe.unet)
                made = guider(batches).pred
                made = (x - signal * made) / noise if clean else made
                x = scheduler.step(made, t, x, return_dict=False)[0]
        return x


@pytest.fixture(scope="module", params=["SD", "SDXL"])
def place(request, tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("sd"), "SD")


def push(layers: Any = "mid", **inputs: Any) -> tuple[str, dict]:
    return "PerturbedAttention", {"layers": layers, "scale": 2.5} | inputs


# Perturbed attention


def test_perturbed_attention_is_equal_to_its_pipeline_and_without_it_is_not(place):
    layers = LAYERS[place.family]
    theirs = place.theirs(3.0, 2.5)
    assert error(place.ours(push(layers)), theirs) < LIMIT
    assert error(place.ours(), theirs) > CONTROL
    assert error(place.ours(push(layers), prompt=OTHER), theirs) > CONTROL
    assert error(place.ours(push(layers, scale=1.0)), theirs) > CONTROL
    assert error(place.ours(push("down_blocks")), theirs) > CONTROL


def test_without_a_negative_prompt_it_is_equal_too(place):
    theirs = place.theirs(0.0, 2.5)
    ours = place.ours(push(LAYERS[place.family], guidance=1.0), negative=False)
    assert error(ours, theirs) < LIMIT


def test_several_layers_are_those_that_a_list_names(sd):
    with_all = error(sd.ours(push("mid, up_blocks.1")), sd.theirs(3.0, 2.5, "mid|up_blocks.1"))
    assert with_all < LIMIT


def test_a_transformer_with_plain_self_attention_is_disturbed_as_its_pipeline_does_it(tmp_path):
    case = pixart.CASES[0]
    torch.manual_seed(0)
    pipe = case.make(tmp_path / "model")
    own = pipe.transformer
    inputs = [torch.randn(2, 4, 8, 8), torch.randn(2, 5, own.config.caption_channels)]
    more: dict[str, Any] = {"timestep": torch.tensor([500, 500])}
    if own.config.use_additional_conditions:
        more["added_cond_kwargs"] = {"resolution": torch.ones(2, 2), "aspect_ratio": torch.ones(2, 1)}
    from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

    theirs, ours = deepcopy(own), deepcopy(own)
    theirs.transformer_blocks[0].attn1.processor = PAGIdentitySelfAttnProcessor2_0()
    perturbed.disturb(ours, "transformer_blocks.0", 0.0)
    with torch.no_grad():
        wanted = theirs(*inputs, **more, return_dict=False)[0][1:]
        assert error(ours(*inputs, **more, return_dict=False)[0][1:], wanted) < LIMIT
        assert error(own(*inputs, **more, return_dict=False)[0][1:], wanted) > CONTROL


# Smoothed energy


def test_smoothed_energy_is_equal_to_the_guider_and_without_it_is_not(sd):
    from diffusers.guiders.smoothed_energy_guidance import SmoothedEnergyGuidance
    from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceConfig

    config = SmoothedEnergyGuidanceConfig([0], fqn="mid_block.attentions.0.transformer_blocks")
    guider = SmoothedEnergyGuidance(3.0, 25.0, seg_blur_sigma=1.0, seg_guidance_config=config)
    theirs = sd.looped(guider)  # whose first step is without, and whose small blurs are the mean
    late: dict[str, Any] = {"start": 1 / STEPS, "blur": 10_000.0, "scale": 25.0}
    assert error(sd.ours(push(**late)), theirs) < LIMIT
    for changed in ({"blur": 0.0}, {"blur": 0.6}, {"start": 0.0}, {"scale": 1.0}):
        assert error(sd.ours(push(**late | changed)), theirs) > CONTROL


@pytest.mark.parametrize("blur", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_a_blur_is_that_of_the_guider(blur, side):
    from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d

    cells = torch.randn(2, side * side, 6, generator=generator())
    width = int(torch.tensor(6 * blur).ceil()) + 1 - int(torch.tensor(6 * blur).ceil()) % 2
    theirs = _gaussian_blur_2d(cells.clone(), width, blur, 0.0)
    assert error(perturbed.blurred(cells, (side, side), blur), theirs) < LIMIT


def test_a_blur_spreads_over_rows_and_columns_of_the_picture_as_it_is():
    plane = torch.zeros(1, 6, 10)
    plane[0, 2, 3] = 1
    spread = perturbed.blurred(plane.reshape(1, 60, 1), (12, 20), 0.7).reshape(6, 10)
    assert torch.allclose(spread[2, 2], spread[2, 4]) and torch.allclose(spread[1, 3], spread[3, 3])
    assert torch.allclose(spread[1, 3], spread[2, 2]) and float(spread[2, 9]) == 0


def test_layers_at_every_level_blur_pictures_that_are_no_squares(sd):
    made = sd.ours(push("down_blocks, mid, up_blocks", blur=1.0), size=(96, 64))
    assert made.shape == (1, 4, 8, 12) and torch.isfinite(made).all()


# Rules


def test_the_optimised_scale_is_equal_to_the_guider_with_and_without_zero_steps(sd):
    from diffusers.guiders.classifier_free_zero_star_guidance import ClassifierFreeZeroStarGuidance

    for steps in (0, 2):
        theirs = sd.looped(ClassifierFreeZeroStarGuidance(3.0, zero_init_steps=steps))
        assert error(sd.ours(("OptimisedGuidance", {"zero_steps": steps})), theirs) < LIMIT
        assert error(sd.ours(), theirs) > CONTROL


@pytest.mark.parametrize("inputs", [{}, {"parallel": 0.5, "momentum": -0.5}, {"longest": 2.0, "momentum": 0.5}])
def test_projected_guidance_is_equal_to_the_guider_on_clean_estimates(sd, inputs):
    from diffusers.guiders.adaptive_projected_guidance import AdaptiveProjectedGuidance

    guider = AdaptiveProjectedGuidance(
        2.0,
        inputs.get("momentum"),
        inputs.get("longest", 0.0),
        eta=inputs.get("parallel", 0.0),
        use_original_formulation=True,
    )
    theirs = sd.looped(guider, clean=True)
    assert error(sd.ours(("ProjectedGuidance", {"guidance": 3.0} | inputs)), theirs) < LIMIT
    assert error(sd.ours(), theirs) > CONTROL


def test_a_projection_that_keeps_all_is_plain_guidance(sd):
    assert error(sd.ours(("ProjectedGuidance", {"guidance": 3.0, "parallel": 1.0})), sd.ours()) < LIMIT


def test_rescaling_comes_last_as_in_diffusers():
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    first, second = torch.randn(2, 2, 4, 8, 8, generator=generator())
    assert error(guide.rescaled(first, second, 0.7), rescale_noise_cfg(first, second, 0.7)) < LIMIT


def test_all_of_it_goes_together(sd):
    base = ("Guidance", {"scale": 3.0, "rescale": 0.7, "start": 0.25, "end": 1.0})
    made = [
        sd.ours(base),
        sd.ours(base, push()),
        sd.ours(base, ("ProjectedGuidance", {}), push()),
        sd.ours(base, ("OptimisedGuidance", {}), push()),
    ]
    assert len({tuple(each.flatten().tolist()) for each in made}) == len(made)


# Whom it touches


def test_a_branch_beside_it_draws_bit_for_bit_what_it_draws_alone(place):
    alone = place.ours()
    plain, pushed = place.run(place.nodes([push(LAYERS[place.family])]), "plain", "sample")
    assert torch.equal(plain, alone)
    assert not torch.equal(plain, pushed)
    assert torch.equal(place.ours(push(scale=0.0)), alone)


def test_the_network_is_asked_for_one_more_branch_only_within_its_share_of_the_steps(sd, monkeypatch):
    rows: list[int] = []
    real = Network.denoise

    def counted(self: Any, x: torch.Tensor, *args: Any) -> torch.Tensor:
        rows.append(len(x))
        return real(self, x, *args)

    monkeypatch.setattr(Network, "denoise", counted)
    for guidance, wanted in (
        ([], [2] * 4),
        ([push()], [2, 1] * 4),
        ([push(end=0.5)], [2, 1, 2, 1, 2, 2]),
        ([push(start=0.5)], [2, 2, 2, 1, 2, 1]),
        ([push(guidance=1.0, start=0.75)], [1, 1, 1, 1, 1]),
        ([("OptimisedGuidance", {"zero_steps": 2})], [2, 2]),
    ):
        rows.clear()
        sd.ours(*guidance)
        assert rows == wanted


def test_the_disturbed_network_shares_its_weights_with_the_plain_one(sd):
    from graphengine.models.checkpoint import find
    from graphengine.models.memory import ModelMemory

    memory = ModelMemory(sd.settings)
    handle = find("model", sd.settings).handles()[0]
    plain: Any = memory.denoiser(handle)
    before = memory.held
    for blur in (0.0, 1.0):
        made: Any = memory.denoiser(handle.patched(Perturbation(1.0, "mid", blur).patch()))
        assert made.network is not plain.network
        assert made.network.conv_in.weight is plain.network.conv_in.weight
    assert memory.held == before


# What is refused


def test_a_layer_that_is_not_there_is_told_with_those_that_are(sd):
    with pytest.raises(NodeError, match=r"no self-attention in a layer 'middle'; it has some in down_blocks.0, "):
        sd.ours(push("middle"))
    assert perturbed._named("blocks.1", "blocks.1.attn") and not perturbed._named("blocks.1", "blocks.10.attn")


def test_a_network_without_plain_self_attention_is_refused():
    made = library("diffusers").SD3Transformer2DModel(
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        joint_attention_dim=8,
        caption_projection_dim=8,
        pooled_projection_dim=8,
        sample_size=8,
    )
    with pytest.raises(CheckpointError, match="SD3Transformer2DModel has no plain self-attention"):
        perturbed.disturb(made, "mid", 0.0)


def test_what_leaves_nothing_to_do_is_refused(sd):
    from graphengine.nodes.guidance import PerturbedAttention  # pyright: ignore[reportMissingImports]

    with pytest.raises(ValueError, match=r"must end \(0.2\) after it starts \(0.5\)"):
        run_node(PerturbedAttention, start=0.5, end=0.2)
    with pytest.raises(ValueError, match="no layer is named"):
        run_node(PerturbedAttention, layers=" , ")
    with pytest.raises(NodeError, match="leaves out the first 4 steps, and there are 4"):
        sd.ours(("OptimisedGuidance", {"zero_steps": 4}))


def test_nodes_add_to_what_they_are_given():
    from graphengine.nodes.guidance import (  # pyright: ignore[reportMissingImports]
        OptimisedGuidance,
        PerturbedAttention,
        ProjectedGuidance,
    )

    first = run_node(ProjectedGuidance, guidance=Guider(5.0, 0.5, 0.1, 0.9)).guidance
    second = run_node(PerturbedAttention, guidance=first).guidance
    assert (second.scale, second.rescale, second.start, second.end) == (5.0, 0.5, 0.1, 0.9)
    assert second.rule == first.rule and second.perturbation.layers == "mid"
    assert run_node(OptimisedGuidance, guidance=4.0).guidance.scale == 4.0


def test_the_workflow_draws_what_the_prompt_says_and_another_picture_with_another_push(engine, workflows):
    from graphengine.training.checker import facts, read
    from graphengine.training.scenes import Scene, Thing, caption

    wanted = Scene((Thing("red", "star", "large"),), "white")
    file = workflows / "perturbed_attention.json"

    def drawn(**inputs: Any) -> Any:
        return engine.submit(file, {"prompt": caption(wanted), "steps": 8} | inputs).result(60)["image"]

    pictures = [drawn(push=scale, blur=blur) for scale, blur in ((0.0, 0.0), (2.0, 0.0), (2.0, 2.0))]
    assert all(facts(wanted, read((image.pixels[0] * 255).round().astype("uint8")))["all"] for image in pictures)
    assert abs(pictures[0].pixels - pictures[1].pixels).max() > 0
    assert abs(pictures[1].pixels - pictures[2].pixels).max() > 0


def test_the_workflow_of_ways_draws_a_picture_each(engine, workflows):
    document = json.loads((workflows / "guidance_variants.json").read_text())
    made = engine.submit(document, {"steps": 3}).result(60)
    pixels = [made[name].pixels for name in ("projected", "optimised", "pushed")]
    assert all(abs(a - b).max() > 0 for a, b in ((pixels[0], pixels[1]), (pixels[1], pixels[2])))
