"""Training two LoRAs of tiny that tell what distillation does: `tiny-few-step` and its control.

The student is taught by tiny with guidance, in twice as many steps; the control is trained on for as long by the plain
loss.  What tells them apart is how near few calls come to the picture that many lead to.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from graphengine.models import checkpoint
from graphengine.models.family import Prompts
from graphengine.models.memory import ModelMemory
from graphengine.settings import Settings
from graphengine.training.denoiser import EMPTY_CAPTIONS
from graphengine.training.distillation import Lesson, train
from graphengine.training.evaluate import KINDS, TRAINING_SCENES, Evaluation, draw_prompts, handles_of, held_out
from graphengine.training.low_rank import write_lora
from graphengine.training.scenes import caption
from graphengine.training.trainer import Stage
from graphengine.training.transformer import BASE, Data

LOOKS = 16
"""Prompts of each kind at every look."""
NAME, CONTROL = "tiny-few-step", "tiny-few-step-control"
"""LoRAs that come with the package: the student, and tiny trained on for as long without a teacher."""
console = Console(stderr=True)


def train_lora(model: str, folder: Path, lesson: Lesson, scenes: int = TRAINING_SCENES) -> Path:
    """Train one of the two, or go on; returns the file that LoadLora takes.

    At every save it is written and measured: `likeness.jsonl` has the step, and the mean likeness in decibels between
    pictures in few calls and the teacher's in 20 guided steps.
    """
    settings = Settings.load(model_folders=(folder,))
    tiny: Any = ModelMemory(settings).denoiser(checkpoint.find(BASE.name, settings).handles()[0])
    data = Data.beside(BASE, folder, scenes)
    made = folder / "loras" / f"{model}.safetensors"
    quick = Evaluation(BASE.name, LOOKS, lesson.student_steps, 1.0, sampler="ddim", lora=made.name)
    slow = replace(quick, steps=20, guidance=lesson.guidance or 3.0, sampler="dpmpp_2m", lora="")
    wanted = drawn(slow, settings)

    def examples(generator: torch.Generator, count: int) -> tuple[Tensor, Prompts]:
        random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        rows = random.integers(0, len(data.scenes), count)
        features = data.drawn(rows, random, 0.0 if lesson.guidance else EMPTY_CAPTIONS)
        return data.latents[torch.from_numpy(rows)], Prompts(features)

    def look(stage: Stage) -> None:
        write_lora(tiny.network, stage.averages["lora"], made)
        mean = float(likeness(drawn(quick, settings), wanted).mean())
        with (folder / "likeness.jsonl").open("a") as log:
            log.write(json.dumps({"name": stage.name, "step": stage.done, "decibels": mean}) + "\n")
        console.print(f"step {stage.done} of {lesson.steps}: {mean:.1f} dB to the teacher")

    train(tiny, examples, Prompts(data.features([""])), lesson, folder, look)
    return made


def drawn(way: Evaluation, settings: Settings) -> np.ndarray:
    """Pictures of held-out prompts, `way.count` of each kind, uint8 `[n, 64, 64, 3]`."""
    memory, handles = ModelMemory(settings), handles_of(way, settings)
    captions = [[caption(scene) for scene in held_out(kind, way.count, way.seed)] for kind in KINDS]
    return np.concatenate([draw_prompts(memory, handles, each, way) for each in captions])


def likeness(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratios in decibels `[n]` between uint8 pictures `[n, ...]`."""
    errors = np.square(pictures.astype(float) - others).reshape(len(pictures), -1).mean(axis=1)
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-9))
