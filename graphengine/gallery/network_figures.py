"""What is measured of the networks' insides: latents, levels, attention, and what becomes of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphengine.gallery.bench import Bench, levels
from graphengine.gallery.figures import SEED, Figure, drawn, percent, right, scenes
from graphengine.settings import Settings
from graphengine.training.scenes import COLOURS, Scene, caption
from graphengine.values import Conditioning, Denoiser, Image

THING = 60.0
"""Distance in RGB, 0..255, from the corner's colour from which on a pixel of a plain picture belongs to its thing."""
WEIGHTS = (0.5, 1, 1.5, 2, 3)
"""Of a word in a prompt."""
HUELESS = ("white", "gray", "black")
"""Colours that cannot become stronger."""


def latent_space(settings: Settings, cases: int) -> list[Figure]:
    bench, pictures = Bench.of("tiny", settings), drawn(scenes(cases))
    back = bench.run("VAEDecode", latent=bench.run("VAEEncode", image=pictures).latent).image
    error = np.square(back.pixels - pictures.pixels).mean(axis=(1, 2, 3))
    levels = -10 * np.log10(error)
    return [Figure("there and back, mean and least", f"{levels.mean():.1f} dB, {levels.min():.1f} dB", cases)]


def unet_anatomy(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.models.anatomy import levels_of

    bench, found = Bench.of("tiny", settings), scenes(cases, "two things")
    prompts = bench.prompts([caption(scene) for scene in found])
    intact = _pictures(bench, bench.denoiser, prompts)
    numbers = range(1, 1 + levels_of(bench.context.models.denoiser(bench.denoiser).network))
    lacking = [_pictures(bench, bench.run("RemoveSkips", level=level).denoiser, prompts) for level in numbers]
    errors = [np.square(image.pixels - intact.pixels).mean(axis=(1, 2, 3)) for image in lacking]
    named = ", ".join(f"without level {level}" for level in numbers)
    shares = [percent(right(found, image)) for image in (intact, *lacking)]
    ratios = [f"{-10 * np.log10(error).mean():.1f} dB" for error in errors]
    return [
        Figure(f"right with all skip connections, {named}", ", ".join(shares), cases),
        Figure(f"mean likeness to the intact picture {named}", ", ".join(ratios), cases),
    ]


def _pictures(bench: Bench, denoiser: Denoiser, prompts: Conditioning) -> Image:
    """One picture of each prompt, from the same noise whatever the denoiser."""
    canvas = bench.run("EmptyLatent", width=64, height=64, batch=len(prompts.features)).latent
    own = {"positive": prompts, "negative": bench.prompts([""]), "steps": 10, "seed": SEED, "latent": canvas}
    return bench.run("VAEDecode", latent=bench.run("Sampler", denoiser=denoiser, **own).latent).image


def attention_maps(settings: Settings, cases: int) -> list[Figure]:
    from graphengine.models.attention import AttentionRecorder, heat, pointing
    from graphengine.models.words import rows_of

    bench, found, recorder = Bench.of("tiny", settings), scenes(cases), AttentionRecorder()
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


def text_anatomy(settings: Settings, cases: int) -> list[Figure]:
    bench, found = Bench.of("tiny", settings), scenes(cases)
    rows = bench.prompts([caption(scene) for scene in found]).features.flatten(1).numpy()
    rows = rows - rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alike = rows @ rows.T
    same = np.array([[a.things[0].shape == b.things[0].shape for b in found] for a in found])
    others = ~np.eye(cases, dtype=bool)
    told = f"{alike[same & others].mean():.3f}, {alike[~same].mean():.3f}"
    return [Figure("mean similarity of prompts with the same shape, and with different ones", told, cases)]


def prompt_weighting(settings: Settings, cases: int) -> list[Figure]:
    bench = Bench.of("tiny", settings)
    found = [scene for scene in scenes(2 * cases + 8) if scene.things[0].colour not in HUELESS][:cases]
    drawn = {weight: levels(_weighted(bench, found, weight)).astype(float) for weight in WEIGHTS}
    things = np.linalg.norm(drawn[1] - drawn[1][:, :1, :1], axis=-1) > THING
    shown = [row for row, thing in enumerate(things) if thing.any()]
    strong = {
        weight: np.array([_strength(pictures[row][things[row]], found[row].things[0].colour) for row in shown])
        for weight, pictures in drawn.items()
    }
    named = ", ".join(f"{weight:g}" for weight in WEIGHTS)
    medians = ", ".join(f"{np.median(strong[weight]):.2f}" for weight in WEIGHTS)
    weaker, stronger = float((strong[0.5] < strong[1]).mean()), float((strong[2] > strong[1]).mean())
    return [
        Figure(f"median strength of the thing's hue with weights {named} of its colour's word", medians, len(shown)),
        Figure(
            "weaker with 0.5 than with 1, and stronger with 2", f"{percent(weaker)}, {percent(stronger)}", len(shown)
        ),
    ]


def _weighted(bench: Bench, found: Sequence[Scene], weight: float) -> Image:
    """Pictures of scenes with this weight on the word for the colour of their thing."""
    read = []
    for scene in found:
        colour = scene.things[0].colour
        text = caption(scene).replace(colour, f"({colour}:{weight})", 1)  # the thing is named before the ground
        read.append(bench.run("EncodeText", encoder=bench.encoder, text=text).conditioning)
    return _pictures(bench, bench.denoiser, bench.run("BatchPrompts", prompts=read).conditioning)


def _strength(pixels: np.ndarray, colour: str) -> float:
    """How strong the hue of a colour is in pixels `[n, 3]` of 0..255: 0 in grey ones, 1 in those of the colour itself."""
    hue = np.array(COLOURS[colour]) - np.mean(COLOURS[colour])
    mean = pixels.mean(0)
    return float((mean - mean.mean()) @ hue / (hue @ hue))
