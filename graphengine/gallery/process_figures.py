"""What is measured of the process itself: noising, training, denoising, samplers, guidance, and what comes of a prompt."""

from __future__ import annotations

import numpy as np

from graphengine.compose import Engine
from graphengine.gallery.bench import Bench
from graphengine.gallery.figures import SEED, Figure, accuracy, percent, right, scenes, workflow
from graphengine.settings import Settings
from graphengine.training.scenes import caption


def forward_process(settings: Settings, cases: int) -> list[Figure]:
    import torch
    from scipy.stats import ks_2samp

    from graphengine.diffusion.forward import add_noise_vp
    from graphengine.diffusion.sigmas import NoiseSchedule

    abar = NoiseSchedule.linear().alphas_cumprod.float()
    clean, found = torch.full((1, 40_000), 0.8), []
    for timestep in (10, 300, 999):
        generator = torch.Generator().manual_seed(timestep)
        x, before = clean, 1.0
        for level in abar[: timestep + 1].tolist():
            noise = torch.randn(clean.shape, generator=generator)
            x, before = (level / before) ** 0.5 * x + (1 - level / before) ** 0.5 * noise, level
        jump = add_noise_vp(clean, torch.randn(clean.shape, generator=generator), abar[timestep])
        found.append(float(tuple(ks_2samp(x[0].numpy(), jump[0].numpy()))[1]))
    return [
        Figure(
            "one jump and t small steps: p that they are the same distribution (t = 10, 300, 999)",
            ", ".join(f"{p:.2f}" for p in found),
            40_000,
        )
    ]


def reverse_process(settings: Settings, cases: int) -> list[Figure]:
    found, bench = scenes(cases), Bench.of("tiny", settings)
    space = bench.vae.space
    assert space is not None
    canvas = bench.run("EmptyLatent", width=64, height=64, batch=cases).latent
    own = {"positive": bench.prompts([caption(scene) for scene in found]), "negative": bench.prompts([""]), "steps": 12}
    estimates = bench.run("SamplerSteps", latent=canvas, guidance=1.0, sampler="euler", seed=SEED, **own).estimates
    shares = [right(found, bench.run("VAEDecode", latent=estimates[step - 1]).image) for step in (1, 3, 6, 12)]
    return [
        Figure(
            "the estimate shows all the prompt says after 1, 3, 6, 12 of 12 steps (guidance 1)",
            ", ".join(map(percent, shares)),
            cases,
        )
    ]


def train_denoiser(settings: Settings, cases: int) -> list[Figure]:
    with Engine(settings=settings) as engine:
        document = workflow(engine, "train_denoiser").document()
        document["outputs"]["loss"] = {"from": "train.loss"}
        losses = engine.submit(document).result()["loss"].y
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    return [Figure("loss of the first and of the last tenth of the steps", f"{first:.3f}, {last:.3f}", len(losses))]


def text_to_image(settings: Settings, cases: int) -> list[Figure]:
    kinds = ("one thing", "patterned ground", "two things")
    shares = [accuracy(settings, scenes(cases, kind), steps=20)[0] for kind in kinds]
    return [
        Figure(
            "all the prompt says is right: one thing, a patterned ground, two things",
            ", ".join(map(percent, shares)),
            3 * cases,
        )
    ]


def scheduler_comparison(settings: Settings, cases: int) -> list[Figure]:
    found, steps = scenes(cases, "two things"), (1, 2, 4, 8)
    made = []
    for sampler in ("euler", "heun", "dpmpp_2m"):
        shares = [accuracy(settings, found, sampler=sampler, steps=count)[0] for count in steps]
        made.append(
            Figure(
                f"right with {sampler} at {', '.join(map(str, steps))} steps", ", ".join(map(percent, shares)), cases
            )
        )
    return made


def guidance(settings: Settings, cases: int) -> list[Figure]:
    found, scales = scenes(cases, "two things"), (0.5, 1.0, 3.0, 12.0)
    shares = [accuracy(settings, found, guidance=scale)[0] for scale in scales]
    half = [accuracy(settings, found, guidance=scale, end=0.5)[0] for scale in scales]
    named = ", ".join(f"{scale:g}" for scale in scales)
    return [
        Figure(f"right at scales {named}", ", ".join(map(percent, shares)), cases),
        Figure("the same with guidance in the first half only", ", ".join(map(percent, half)), cases),
    ]


def faithfulness(settings: Settings, cases: int) -> list[Figure]:
    singles, best = [], []
    with Engine(settings=settings) as engine:
        for number, scene in enumerate(scenes(cases, "two things")):
            inputs = {"prompt": caption(scene), "count": 8, "seed": SEED + 8 * number}
            made = engine.submit(workflow(engine, "faithfulness"), inputs).result()
            singles.append(made["scores"][0] == 1)
            best.append(made["score"] == 1)
    told = f"{percent(float(np.mean(singles)))}, {percent(float(np.mean(best)))}"
    return [Figure("all right with one picture, and with the best of 8 (2 steps, guidance 0.5)", told, cases)]
