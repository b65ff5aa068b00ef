"""What is measured of other networks than tiny's own: a transformer in place of its U-Net, and a student in few steps."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from graphengine.compose import Engine
from graphengine.gallery.figures import SEED, Figure, percent, right, scenes, turned, workflow
from graphengine.models import alone
from graphengine.models import checkpoint as checkpoints
from graphengine.models.memory import ModelMemory
from graphengine.settings import Settings
from graphengine.training.evaluate import Evaluation, draw_prompts
from graphengine.training.few_step import (
    CONTROL,
    RECIPES,
    SLOW,
    STUDENT,
    draw_open,
    likeness,
    open_scenes,
)
from graphengine.training.open_scenes import settled
from graphengine.training.scenes import caption
from graphengine.values import Image

OPEN_PROMPTS = 4
"""So many open prompts for each case: they are cheap, and the ways differ by a few in a hundred."""
TAUGHT = RECIPES[STUDENT].guidance


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
    """How often pictures of open prompts are right, by calls of the network; the same prompts and seeds for every way."""
    guided = replace(SLOW, steps=4, guidance=TAUGHT, sampler="ddim")
    quick = replace(guided, guidance=1.0)
    student = replace(quick, lora=f"{SLOW.lora},{STUDENT}.safetensors")
    control = replace(quick, lora=f"{SLOW.lora},{CONTROL}.safetensors")
    ways = {
        "the teacher in 20 steps, 40 calls": SLOW,
        "the student in 4 steps, 4 calls": student,
        "the teacher in 4 steps, 4 calls": quick,
        "the teacher trained on for as long, 4 steps, 4 calls": control,
        "the teacher in 4 steps with guidance, 8 calls": guided,
        "the student in 2 steps, 2 calls": replace(student, steps=2),
        "the teacher in 2 steps with guidance, 4 calls": replace(guided, steps=2),
    }
    found, memory = open_scenes(OPEN_PROMPTS * cases, SEED), ModelMemory(settings)
    shown = {name: settled(found, draw_open(found, way, settings, memory)) for name, way in ways.items()}
    slow, taught, hasty, *_ = shown.values()
    return [
        *(
            Figure(f"{name}: right, and places in use (of 4.5)", f"{percent(it.share)}, {it.spread:.1f}", len(found))
            for name, it in shown.items()
        ),
        Figure(
            "the student's accuracy as a share of the teacher's in 20 steps",
            percent(taught.share / slow.share),
            len(found),
        ),
        Figure(
            "right only by the student, right only by the teacher in as many calls",
            turned(hasty.right, taught.right),
            len(found),
        ),
    ]
