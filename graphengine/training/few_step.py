"""Training three LoRAs of tiny that tell what distillation does: `tiny-open`, `tiny-few-step` and its control.

The first leaves to the seed what a prompt leaves open (see `open_scenes`), so that drawing takes steps.  Over it, the
student is taught by it with guidance, in twice as many steps; the control is trained on for as long by the plain loss.  What
tells them apart is how often few calls come to a picture that is right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from graphengine.models.family import Prompts
from graphengine.models.memory import ModelMemory
from graphengine.settings import Settings
from graphengine.training.denoiser import EMPTY_CAPTIONS
from graphengine.training.distillation import Lesson, train
from graphengine.training.evaluate import BATCH, Evaluation, draw_prompts, handles_of
from graphengine.training.low_rank import write_lora
from graphengine.training.open_scenes import open_caption, open_scene, settled
from graphengine.training.scenes import Scene
from graphengine.training.trainer import Stage
from graphengine.training.transformer import BASE, Data

LOOKS = 100
"""Prompts at every look."""
SEED, LOOK_SEED = 5, 99
OPEN, STUDENT, CONTROL = "tiny-open", "tiny-few-step", "tiny-few-step-control"
"""LoRAs that come with the package; the others go over the first, with tiny under it."""
SLOW = Evaluation(lora=f"{OPEN}.safetensors")
console = Console(stderr=True)


@dataclass(frozen=True)
class Recipe:
    """How one of the three is trained."""

    rank: int
    rate: float
    guidance: float
    """Of the teacher; 0 is without one."""
    look: Evaluation
    """How it draws at every look."""

    def lesson(self, steps: int, batch: int, seed: int) -> Lesson:
        return Lesson(
            steps, max(1, batch // Lesson.student_steps), self.rate, seed, guidance=self.guidance, rank=self.rank
        )


def _over(name: str) -> Evaluation:
    loras = f"{OPEN}.safetensors,{name}.safetensors"
    return Evaluation(steps=Lesson.student_steps, guidance=1.0, sampler="ddim", lora=loras)


RECIPES = {
    OPEN: Recipe(16, 1e-3, 0.0, SLOW),
    STUDENT: Recipe(8, 6e-4, 2.0, _over(STUDENT)),
    CONTROL: Recipe(8, 6e-4, 0.0, _over(CONTROL)),
}


def train_lora(model: str, folder: Path, lesson: Lesson, scenes: int) -> Path:
    """Train one of the three, or go on; returns the file that LoadLora takes.

    At every save it is written and measured: `accuracy.jsonl` has the step, and the share of pictures that are right.
    A `tiny-open` in the folder `loras` of the model folders is the one that the others go over.
    """
    settings, recipe = Settings.load(model_folders=(folder,)), RECIPES[model]
    below = replace(recipe.look, lora="" if model == OPEN else SLOW.lora)
    teacher: Any = ModelMemory(settings).denoiser(handles_of(below, settings)[0])
    random = np.random.default_rng(SEED)
    data = Data.beside(BASE, folder, [open_scene(random) for _ in range(scenes)], random, open_caption)
    made = folder / "loras" / f"{model}.safetensors"
    wanted = open_scenes(LOOKS, LOOK_SEED)

    def examples(generator: torch.Generator, count: int) -> tuple[Tensor, Prompts]:
        own = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        rows = own.integers(0, len(data.scenes), count)
        features = data.drawn(rows, own, 0.0 if lesson.guidance else EMPTY_CAPTIONS)
        return data.latents[torch.from_numpy(rows)], Prompts(features)

    def look(stage: Stage) -> None:
        write_lora(teacher.network, stage.averages["lora"], made)
        share = settled(wanted, draw_open(wanted, recipe.look, settings)).share
        with (folder / "accuracy.jsonl").open("a") as log:
            log.write(json.dumps({"name": stage.name, "step": stage.done, "right": share}) + "\n")
        console.print(f"step {stage.done} of {lesson.steps}: {share:.0%} right in {recipe.look.steps} steps")

    train(teacher, examples, Prompts(data.features([""])), lesson, folder, look)
    return made


def open_scenes(count: int, seed: int) -> list[Scene]:
    random = np.random.default_rng(seed)
    return [open_scene(random) for _ in range(count)]


def draw_open(
    scenes: Sequence[Scene], way: Evaluation, settings: Settings, memory: ModelMemory | None = None
) -> np.ndarray:
    """Pictures of scenes whose open part is not told, uint8 `[n, 64, 64, 3]`; each has a seed of its own."""
    handles, texts = handles_of(way, settings), [open_caption(scene) for scene in scenes]
    memory = memory or ModelMemory(settings)
    parts = [draw_prompts(memory, handles, texts[row : row + BATCH], way, row) for row in range(0, len(texts), BATCH)]
    return np.concatenate(parts)


def likeness(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratios in decibels `[n]` between uint8 pictures `[n, ...]`."""
    errors = np.square(pictures.astype(float) - others).reshape(len(pictures), -1).mean(axis=1)
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-9))
