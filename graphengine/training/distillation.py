"""Progressive distillation (Salimans & Ho 2022, algorithm 2) with guidance distilled in (Meng et al. 2023).

One step of the student lands where several guided steps of the teacher do, so that it needs few steps, and no second
branch for guidance.  The contract is that of samplers, `denoised = denoise(x, sigma)`, so any denoiser can teach; what the
student learns are low-rank differences of the teacher's weights.

Glossary
    level     a noise level that the student's sampler visits: the `simple` schedule's for as many steps as it shall need
    substeps  steps of the teacher that one of the student's replaces
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from graphengine.diffusion.sigmas import sigma_schedule
from graphengine.models.family import DenoiserAdapter, Prompts
from graphengine.training.low_rank import adapted
from graphengine.training.optimiser import Optimiser
from graphengine.training.trainer import Stage

Examples = Callable[[torch.Generator, int], tuple[Tensor, Prompts]]
"""Draws so many clean latents `[n, C, h, w]` with their prompts."""


@dataclass(frozen=True)
class Lesson:
    """What is taught, and for how long: to do as the teacher does with this guidance, or by the plain loss if it is 0.

    A step has `batch` examples for each of `student_steps` levels.
    """

    steps: int
    batch: int = 12
    rate: float = 6e-4
    seed: int = 0
    student_steps: int = 4
    substeps: int = 2
    guidance: float = 3.0
    rank: int = 16


def stepped(x: Tensor, clean: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
    """From one noise level to another along an estimate of the clean latents (DDIM; Song et al. 2021, eq. 13)."""
    return clean + (x - clean) * (following / sigma)


def clean_between(x: Tensor, landed: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
    """The estimate whose one step leads from x to `landed`: Salimans & Ho 2022, appendix G."""
    ratio = following / sigma
    return (landed - ratio * x) / (1 - ratio)


class Teacher:
    """A denoiser with guidance, on a grid of `student_steps * substeps` levels."""

    def __init__(self, model: DenoiserAdapter, lesson: Lesson, empty: Prompts, shape: tuple[int, ...]):
        self._model, self._lesson, self._empty = model, lesson, empty
        schedule = model.schedule_for(shape)
        self.sigmas = sigma_schedule("simple", schedule, lesson.student_steps * lesson.substeps).to(model.device)

    def ends(self, row: int) -> tuple[Tensor, Tensor]:
        """The levels between which the student's step `row` leads."""
        return self.sigmas[row * self._lesson.substeps], self.sigmas[(row + 1) * self._lesson.substeps]

    @torch.no_grad()
    def landed(self, x: Tensor, row: int, prompts: Prompts) -> Tensor:
        """Where the teacher gets from x `[B, C, h, w]` while the student takes its step `row`."""
        count, first = len(x), row * self._lesson.substeps
        both = prompts + Prompts(
            self._empty.features.expand(count, -1, -1),
            {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self._empty.extras.items()},
        )
        for sigma, following in pairwise(self.sigmas[first : first + self._lesson.substeps + 1]):
            wanted, bare = self._model.denoise(torch.cat([x, x]), sigma, both).chunk(2)
            x = stepped(x, bare + self._lesson.guidance * (wanted - bare), sigma, following)
        return x


def train(
    model: DenoiserAdapter,
    examples: Examples,
    empty: Prompts,
    lesson: Lesson,
    folder: Path,
    look: Callable[[Stage], None] | None = None,
    report: Callable[[int, float], None] | None = None,
) -> Stage:
    """Teach or go on; the stage's module `lora` holds the differences from `model`.

    `empty` is the negative prompt, one row.  `look(stage)` is called at every save;
    `report(step, loss)` after every step in place of a progress bar, and it may raise: what was reached is kept.
    """
    torch.manual_seed(lesson.seed)
    student: Any = copy.copy(model)
    student.network, lows = adapted(student.network, lesson.rank)
    if hasattr(student.network, "set_attn_processor"):
        network: Any = student.network
        network.set_attn_processor(AttnProcessor())  # whose backward pass is twice as fast on a CPU
    lows.to(model.device)
    optimiser = Optimiser([(lows, 1.0)], lesson.rate, vectors=1.0)
    warm_up = max(1, min(20, lesson.steps // 10))
    name = "student" if lesson.guidance else "plain"
    decay = min(0.998, 1 - 4 / (lesson.steps + 4))
    stage = Stage(name, {"lora": lows}, optimiser, lesson.steps, folder, average_decay=decay, warm_up=warm_up)
    shape = tuple(examples(torch.Generator().manual_seed(0), 1)[0].shape)
    schedule = model.schedule_for(shape)
    teacher = Teacher(model, lesson, empty, shape) if lesson.guidance else None

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(lesson.seed * 1_000_003 + step)
        total = torch.zeros((), device=model.device)
        for row in range(lesson.student_steps):
            clean, prompts = examples(generator, lesson.batch)
            clean = clean.to(model.device, torch.float32)
            noise = torch.randn(clean.shape, generator=generator).to(model.device)
            if teacher:
                sigma, following = teacher.ends(row)
            else:
                place = (row + float(torch.rand((), generator=generator))) / lesson.student_steps
                sigma = following = schedule.sigmas[int(place * len(schedule.sigmas))].to(model.device, torch.float32)
            x = schedule.noised(clean, noise, sigma)
            with torch.autocast(model.device.partition(":")[0], torch.bfloat16):
                wanted = clean
                if teacher:
                    wanted = clean_between(x, teacher.landed(x, row, prompts), sigma, following)
                error = student.denoise(x, sigma, prompts) - wanted
            total = total + error.square().mean() * (1 + sigma**-2)  # which is the loss of v
        return total / lesson.student_steps

    with torch.enable_grad():
        stage.run(loss, (lambda done: look(stage)) if look else None, report)
    return stage
