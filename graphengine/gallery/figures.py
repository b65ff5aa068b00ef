"""What is measured about the gallery's workflows: claims with their figures, each over many cases.

Every function takes settings and a number of cases, and draws with the embedded models; the same seed gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphengine.compose import Engine
from graphengine.settings import Settings
from graphengine.training.scenes import Scene, caption, draw
from graphengine.values import Image
from graphengine.workflow import Workflow

SEED = 30_000
THING = 60.0
"""Distance in RGB, 0..255, from the corner's colour from which on a pixel of a plain picture belongs to its thing."""


@dataclass(frozen=True)
class Figure:
    """A claim, its figure as text, and over how many cases it was measured."""

    claim: str
    value: str
    cases: int


def percent(share: float) -> str:
    return f"{share:.0%}"


def scenes(count: int, kind: str = "one thing", seed: int = SEED) -> list[Scene]:
    """Scenes whose captions training never saw."""
    from graphengine.training.evaluate import held_out

    return held_out(kind, count, seed)


def drawn(found: Sequence[Scene], seed: int = SEED) -> Image:
    random = np.random.default_rng(seed)
    return Image(np.stack([draw(scene, random) for scene in found]).astype(np.float32) / 255)


def right(found: Sequence[Scene], image: Image) -> float:
    """Share of pictures in which the checker reads every fact of their scene."""
    from graphengine.training.checker import facts, read

    levels = (image.pixels[..., :3] * 255).round().astype(np.uint8)
    return float(np.mean([facts(scene, read(picture))["all"] for scene, picture in zip(found, levels, strict=True)]))


def workflow(engine: Engine, name: str) -> Workflow:
    """A workflow that comes with the project."""
    found = engine.find_workflow(name)
    assert found is not None, name
    return found


def accuracy(settings: Settings, found: Sequence[Scene], **inputs: object) -> tuple[float, float]:
    """Share of pictures that show all their prompts say, and CPU seconds a picture, for one way of sampling."""
    told = {"prompts": [caption(scene) for scene in found], "seed": SEED, **inputs}
    with Engine(settings=settings) as engine:
        made = engine.submit(workflow(engine, "sampling_accuracy"), told).result()
    return made["accuracy"], made["seconds"] / len(found)


# One function for each workflow


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
    from graphengine.gallery.bench import Bench

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


def latent_space(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.gallery.bench import Bench

    bench, pictures = Bench.of("tiny", settings), drawn(scenes(cases))
    back = bench.run("VAEDecode", latent=bench.run("VAEEncode", image=pictures).latent).image
    error = np.square(back.pixels - pictures.pixels).mean(axis=(1, 2, 3))
    levels = -10 * np.log10(error)
    return [Figure("there and back, mean and least", f"{levels.mean():.1f} dB, {levels.min():.1f} dB", cases)]


def text_anatomy(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.gallery.bench import Bench

    bench, found = Bench.of("tiny", settings), scenes(cases)
    rows = bench.prompts([caption(scene) for scene in found]).features.flatten(1).numpy()
    rows = rows - rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alike = rows @ rows.T
    same = np.array([[a.things[0].shape == b.things[0].shape for b in found] for a in found])
    others = ~np.eye(cases, dtype=bool)
    told = f"{alike[same & others].mean():.3f}, {alike[~same].mean():.3f}"
    return [Figure("mean similarity of prompts with the same shape, and with different ones", told, cases)]


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


def attention_maps(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.gallery.bench import Bench, levels
    from graphengine.models.attention import Recorder, heat, pointing
    from graphengine.models.words import rows_of

    bench, found, recorder = Bench.of("tiny", settings), scenes(cases), Recorder()
    texts = [caption(scene) for scene in found]
    canvas = bench.run("EmptyLatent", width=64, height=64, batch=cases).latent
    own = {"positive": bench.prompts(texts), "negative": bench.prompts([""]), "steps": 10, "seed": SEED}
    sampler = bench.nodes["Sampler"].model_validate({"denoiser": bench.denoiser, "latent": canvas, **own})
    pictures = levels(bench.run("VAEDecode", latent=sampler.sampled(bench.context, recorder=recorder)).image)  # pyright: ignore[reportAttributeAccessIssue]
    maps, adapter, told = recorder.maps(), bench.context.models.text_encoder(bench.encoder), []
    for row, (scene, text, picture) in enumerate(zip(found, texts, pictures, strict=True)):
        thing = np.linalg.norm(picture.astype(float) - picture[0, 0], axis=-1) > THING
        rows = rows_of(adapter, text, [scene.things[0].shape])[0]
        told.append(pointing(heat(maps[row : row + 1], rows)[0].numpy(), thing.astype(np.float32)))
    mass, hits, chance = np.array(told, float).mean(0)
    return [
        Figure(
            "the map of the shape's word has its peak on the shape, and chance",
            f"{percent(hits)}, {percent(chance)}",
            cases,
        ),
        Figure("its mass on the shape, and chance", f"{percent(mass)}, {percent(chance)}", cases),
    ]


def edit_by_inversion(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.gallery import editing_figures as editing
    from graphengine.gallery.bench import Bench

    bench = Bench.of("tiny", settings)
    plain, fixed = editing.round_trip(bench, cases, fixed_point=0), editing.round_trip(bench, cases)
    ways = {
        "by inversion": editing.inversion_edits(bench, cases),
        "by inversion within a mask": editing.inversion_edits(bench, cases, masked=True),
        "by image to image, strength 0.5": editing.strength_edits(bench, cases, 0.5),
    }
    return [
        Figure(
            "there and back in 50 steps without and with fixed-point iterations",
            f"{plain['mean']:.1f}, {fixed['mean']:.1f} dB",
            cases,
        ),
        *(
            Figure(f"colour changed and the rest kept, {way}", percent(found["all"]), cases)
            for way, found in ways.items()
        ),
    ]


def image_to_image(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.gallery import editing_figures as editing
    from graphengine.gallery.bench import Bench

    rows = editing.strengths(Bench.of("tiny", settings), cases)
    told = ", ".join(f"{row['strength']:g}: {percent(row['changed'])} and {percent(row['kept'])}" for row in rows)
    return [Figure("at each strength, colour as the prompt says and layout kept", told, cases)]


def inpaint(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.gallery import painting_figures as painting
    from graphengine.gallery.bench import Bench

    made = painting.inpainting(Bench.of("tiny", settings), cases)
    return [
        Figure("inside is what the prompt says", percent(made["followed"]), cases),
        Figure("greatest change of a pixel outside", f"{made['outside']:g}", cases),
    ]


def outpaint(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.gallery import painting_figures as painting
    from graphengine.gallery.bench import Bench

    bench = Bench.of("tiny", settings)
    made = {side: painting.outpainting(bench, side, cases) for side in painting.SIDES}
    seams = ", ".join(f"{side} {found['seam']:.1f} and {found['inside']:.1f}" for side, found in made.items())
    return [
        Figure("mean gradient across the seam and inside, in levels of 255", seams, cases),
        Figure(
            "greatest change of a pixel of the picture", f"{max(found['moved'] for found in made.values()):g}", cases
        ),
    ]


def instruct_edit(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.training.edit_score import EditEvaluation, evaluate_edits

    made = evaluate_edits(EditEvaluation(count=cases), settings)
    told = {kind: scores["all"][0] / scores["all"][1] for kind, scores in made.items()}
    return [Figure(f"{kind}: done as told, and the rest kept", percent(share), cases) for kind, share in told.items()]


def diffusion_transformer(settings: Settings, cases: int) -> list[Figure]:
    import time

    from graphengine.models import alone
    from graphengine.models import checkpoint as checkpoints
    from graphengine.models.memory import ModelMemory
    from graphengine.training.evaluate import Evaluation, draw_prompts

    memory, found = ModelMemory(settings), scenes(cases)
    unet, encoder, vae = checkpoints.find("tiny", settings).handles()
    made = []
    for name, denoiser in (("U-Net", unet), ("transformer", alone.find("tiny-dit", "denoiser", settings))):
        began = time.process_time()
        pictures = draw_prompts(memory, (denoiser, encoder, vae), [caption(scene) for scene in found], Evaluation())
        spent = (time.process_time() - began) / cases
        share = right(found, Image(pictures.astype(np.float32) / 255))
        made.append(
            Figure(
                f"{name}: all the prompt says is right, CPU time of a picture",
                f"{percent(share)}, {spent:.2f} s",
                cases,
            )
        )
    return made
