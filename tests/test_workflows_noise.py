"""The workflows about noise: data becomes noise, noise becomes data, and a network learns to tell them apart."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow
from scipy.stats import ks_2samp

from graphengine import NodeError
from graphengine.models.checkpoint import find
from graphengine.nodes.forward import (  # pyright: ignore[reportMissingImports]
    AddNoise,
    AddNoiseStepwise,
    BetaSchedule,
    ScheduleCurves,
)
from graphengine.testing import picture, run_node
from graphengine.values import Latent, LatentSpace, VarianceSchedule

SPACE = LatentSpace(4, 8, "test")
LINEAR = VarianceSchedule(tuple(torch.linspace(0.999, 0.001, 20).tolist()))


def latent(value: float = 1.5, rows: int = 8) -> Latent:
    return Latent(torch.full((rows, 4, 32, 32), value), SPACE)


def alike(first: torch.Tensor, second: torch.Tensor) -> float:
    """How likely two samples are of one distribution (Kolmogorov-Smirnov)."""
    result: Any = ks_2samp(first.numpy(), second.numpy())
    return float(result.pvalue)


@pytest.mark.parametrize("timestep", [0, 7, 19])
def test_many_small_steps_and_one_jump_are_the_same_distribution(timestep):
    made = [
        run_node(node, latent=latent(), schedule=LINEAR, timestep=timestep, seed=seed).latent.samples.flatten()
        for node, seed in ((AddNoise, 0), (AddNoiseStepwise, 1000))
    ]
    assert alike(made[0], made[1]) > 0.01
    abar = LINEAR.at(timestep)
    for samples in made:
        assert samples.mean().item() == pytest.approx(1.5 * abar**0.5, abs=0.02)
        assert samples.std().item() == pytest.approx((1 - abar) ** 0.5, abs=0.02)


def test_too_little_noise_is_told_apart_from_the_right_amount():
    jump = run_node(AddNoise, latent=latent(), schedule=LINEAR, timestep=9, seed=0).latent.samples.flatten()
    less = run_node(AddNoiseStepwise, latent=latent(), schedule=LINEAR, timestep=8, seed=1000).latent.samples.flatten()
    assert alike(jump, less) < 0.01


def test_a_picture_of_a_batch_is_noised_as_it_is_alone():
    both = run_node(AddNoise, image=picture(16, 16, 2), schedule=LINEAR, timestep=5, seed=3).image.pixels
    alone = run_node(
        AddNoise, image=type(picture())(picture(16, 16, 2).pixels[1:]), schedule=LINEAR, timestep=5, seed=4
    ).image.pixels
    assert (both[1:] == alone).all()


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"latent": latent(), "timestep": 20}, r"timestep 20 lies outside 0\.\.19"),
        ({"timestep": 5}, "link either an image or a latent"),
        ({"latent": latent(), "image": picture(), "timestep": 5}, "link either an image or a latent"),
    ],
)
@pytest.mark.parametrize("node", [AddNoise, AddNoiseStepwise])
def test_what_cannot_be_noised_is_told(node, inputs, told):
    with pytest.raises(ValueError, match=told):
        run_node(node, schedule=LINEAR, **inputs)


def test_a_schedule_that_shrinks_is_refused():
    with pytest.raises(ValueError, match="noise must not shrink"):
        run_node(BetaSchedule, beta_start=0.5, beta_end=0.1)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
def test_the_ratio_of_signal_to_noise_falls_all_the_way(kind):
    schedule = run_node(BetaSchedule, kind=kind).schedule
    ratio = np.array(run_node(ScheduleCurves, schedule=schedule).snr.y)
    assert (np.diff(ratio) < 0).all()
    assert ratio[0] > 100 and ratio[-1] < 0.01


def test_the_workflow_shows_ever_more_noise(engine, workflows):
    (engine.settings.input_folder / "flat.png").parent.mkdir(parents=True, exist_ok=True)
    pillow.new("RGB", (64, 64), (128, 128, 128)).save(engine.settings.input_folder / "flat.png")
    run = engine.submit(workflows / "forward_process.json", {"image": "flat.png", "timesteps": [0, 300, 999]})
    made = run.result(60)
    cells = made["image"].pixels[0, 34:120, 4:300]
    spread = [float(cells[10:80, 100 * i + 10 : 100 * i + 85].std()) for i in range(3)]
    assert spread[0] < spread[1] < spread[2]
    assert made["plot"].size == made["snr"].size == (640, 400)


def test_estimates_come_nearer_to_the_final_picture(engine, workflows):
    document = workflows / "reverse_process.json"
    made = engine.submit(document, {"steps": 6}).result(120)
    frames = pillow.open(made["animation"][0].path)
    assert getattr(frames, "n_frames", 1) == 6
    final = np.asarray(made["final"].pil()[0].resize((192, 192), pillow.Resampling.BICUBIC), np.float32)
    errors = []
    for number in range(6):
        frames.seek(number)
        errors.append(float(np.abs(np.asarray(frames.convert("RGB"), np.float32) - final).mean()))
    assert errors[-1] < 1
    assert errors[0] > 2 * errors[3] > 2 * errors[5]


def test_training_lowers_the_loss_and_writes_a_checkpoint_that_draws(engine, workflows):
    small = {"pictures": 16, "steps": 24, "batch": 4, "rate": 0.002}
    document = json.loads((workflows / "train_denoiser.json").read_text())
    document["outputs"]["loss"] = {"from": "train.loss"}
    document["nodes"]["train"]["inputs"]["levels"] = 1
    run = engine.submit(document, small)
    made = run.result(200)
    losses = made["loss"].y
    assert len(losses) == 24 and sum(losses[-8:]) < 0.9 * sum(losses[:8])
    steps = [event for event in run.events() if event.event == "node_progress" and event.node == "train"]
    assert steps[-1].done == 24
    own = engine.settings.model_copy(update={"model_folders": (engine.settings.output_folder,)})
    assert find("trained", own).family == "stable_diffusion"


def test_training_goes_on_where_it_was_stopped(engine, workflows):
    small = {"pictures": 8, "steps": 7, "batch": 2, "name": "again"}
    document = workflows / "train_denoiser.json"
    first = engine.submit(document, small)
    for event in first.events():
        if event.event == "node_progress" and event.node == "train" and event.done >= 3:
            first.cancel()
    second = engine.submit(document, small)
    second.result(200)
    done = [event.done for event in second.events() if event.event == "node_progress" and event.node == "train"]
    assert done[0] > 3


def test_training_on_latents_of_another_model_is_refused(engine, workflows):
    from graphengine import Workflow

    document = Workflow.load(workflows / "train_denoiser.json").document()
    document["nodes"]["positive"]["inputs"]["prompts"] = {"from": "wanted.conditioning"}
    with pytest.raises(NodeError, match="4 prompts for 8 examples"):
        engine.submit(document, {"pictures": 8}).result(60)
