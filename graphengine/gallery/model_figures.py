"""What is measured of other networks than tiny's own: a transformer in place of its U-Net, and a student in few steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphengine.compose import Engine
from graphengine.gallery.figures import Figure, percent, right, scenes, workflow
from graphengine.models import alone
from graphengine.models import checkpoint as checkpoints
from graphengine.models.memory import ModelMemory
from graphengine.settings import Settings
from graphengine.training.evaluate import BATCH, Evaluation, draw_prompts, handles_of
from graphengine.training.few_step import CONTROL, NAME, likeness
from graphengine.training.scenes import Scene, caption
from graphengine.values import Image

KINDS = ("two things", "patterned ground")
"""The harder ones, half of the cases each."""


def diffusion_transformer(settings: Settings, cases: int) -> list[Figure]:
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


def distill(settings: Settings, cases: int) -> list[Figure]:
    """How near four steps without guidance come to the teacher's eight with it, before the lesson and after it."""
    with Engine(settings=settings) as engine:
        document = workflow(engine, "distill").document()
        document["outputs"] = {"student": {"from": "student.denoiser"}, "loss": {"from": "student.loss"}}
        made = engine.submit(document).result()
    teacher, *others = checkpoints.find("tiny", settings).handles()
    memory, texts = ModelMemory(settings), [caption(scene) for scene in scenes(cases, "two things")]
    slow, quick = Evaluation(steps=8, sampler="ddim"), Evaluation(steps=4, guidance=1.0, sampler="ddim")
    ways = ((teacher, slow), (teacher, quick), (made["student"], quick))
    wanted, before, after = (draw_prompts(memory, (who, *others), texts, way) for who, way in ways)
    told = ", ".join(f"{likeness(pictures, wanted).mean():.1f} dB" for pictures in (before, after))
    updates = len(made["loss"].y)
    return [
        Figure(f"likeness of 4 steps to the teacher's 8 guided ones, before and after {updates} updates", told, cases)
    ]


def few_step(settings: Settings, cases: int) -> list[Figure]:
    slow, quick = Evaluation(), Evaluation(steps=4, guidance=1.0, sampler="ddim")
    student = f"{NAME}.safetensors"
    ways = {
        "the student in 4 steps, 4 calls": replace(quick, lora=student),
        "tiny in 4 steps, 4 calls": quick,
        "tiny trained on for as long, 4 steps, 4 calls": replace(quick, lora=f"{CONTROL}.safetensors"),
        "tiny in 4 steps with guidance, 8 calls": replace(slow, steps=4),
        "the student in 2 steps, 2 calls": replace(quick, steps=2, lora=student),
        "tiny in 2 steps, 2 calls": replace(quick, steps=2),
    }
    memory, found = ModelMemory(settings), [it for kind in KINDS for it in scenes(cases // 2, kind)]
    wanted = _drawn(memory, slow, found, settings)
    accuracy = right(found, Image(wanted))
    made, shares = [Figure("tiny in 20 steps, 40 calls: all right", percent(accuracy), len(found))], []
    errors = []
    for name, way in ways.items():
        pictures = _drawn(memory, way, found, settings)
        errors.append(np.square(pictures - wanted).mean(axis=(1, 2, 3)))
        shares.append(right(found, Image(pictures)))
        told = f"{percent(shares[-1])}, {-10 * np.log10(errors[-1]).mean():.1f} dB"
        made.append(Figure(f"{name}: all right, and mean likeness to the 20 steps", told, len(found)))
    nearer = float(np.mean(errors[0] < errors[1]))
    return [
        *made,
        Figure("the student's accuracy as a share of that in 20 steps", percent(shares[0] / accuracy), len(found)),
        Figure("its picture is nearer to the 20 steps than tiny's in as many calls", percent(nearer), len(found)),
    ]


def _drawn(memory: ModelMemory, way: Evaluation, found: Sequence[Scene], settings: Settings) -> np.ndarray:
    """Pictures of scenes' captions, float32 `[n, 64, 64, 3]`; each has a seed of its own, the same for every way."""
    handles, texts = handles_of(way, settings), [caption(scene) for scene in found]
    parts = [draw_prompts(memory, handles, texts[row : row + BATCH], way, row) for row in range(0, len(texts), BATCH)]
    return np.concatenate(parts).astype(np.float32) / 255
