"""Training any denoiser on latents and prompts, by the contract that samplers use: `denoised = denoise(x, sigma)`.

At x = x0 + sigma eps the network's estimate D gives its idea of the noise, (x - D) / sigma, which is compared with eps
(Ho et al. 2020, eq. 14); on the straight lines of a flow the same quotient is the velocity (Lipman et al. 2023).  So one
loss trains every family, whatever its network predicts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphengine.models.family import DenoiserAdapter, Prompts
from graphengine.training.optimiser import Optimiser
from graphengine.training.trainer import Stage
from graphengine.values import Conditioning

EMPTY = 0.1
"""Share of a step's prompts that are the negative one, so that guidance has its second branch (Ho & Salimans 2022)."""


@dataclass(frozen=True)
class Course:
    """How long, how fast, and from where: `fresh` begins with random weights.

    A step draws `levels` noise levels, one from each equal part of the schedule, and `batch` examples for each.
    """

    steps: int
    batch: int = 8
    levels: int = 4
    rate: float = 1e-3
    seed: int = 0
    fresh: bool = True


def train(
    model: DenoiserAdapter,
    latents: Tensor,
    prompts: tuple[Conditioning, Conditioning],
    course: Course,
    folder: Path,
    report: Callable[[int, float], None],
) -> tuple[Stage, nn.Module]:
    """Train a copy of a denoiser's network on scaled latents `[n, C, h, w]`; goes on where `folder` has got to.

    `prompts` are the examples' conditionings as one batch of n (or one for all), and the negative one.  `report(step,
    loss)` may raise; what was reached is kept.  Returns the stage and the network with its averaged weights.
    """
    made: Any = copy.copy(model)
    torch.manual_seed(course.seed)
    made.network = _copy(made.network, course.fresh)
    stage = Stage(
        "denoiser",
        {"network": made.network},
        Optimiser([(made.network, 1.0)], course.rate),
        course.steps,
        folder,
        average_decay=0.98,
        warm_up=max(1, course.steps // 20),
        save_seconds=20,
    )
    rows = len(latents)
    wanted = Prompts.of(prompts[0], rows, made.device)
    empty = Prompts.of(prompts[1], 1, made.device)
    schedule = made.schedule_for(tuple(latents.shape))
    sigmas = schedule.sigmas.float()

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(course.seed * 1_000_003 + step)
        places = (torch.arange(course.levels) + torch.rand(course.levels, generator=generator)) / course.levels
        total = torch.zeros(())
        for place in places:
            sigma = sigmas[int(place * len(sigmas))].to(made.device)
            chosen = torch.randint(rows, (course.batch,), generator=generator)
            clean = latents[chosen].to(made.device, torch.float32)
            noise = torch.randn(clean.shape, generator=generator).to(made.device)
            x = schedule.noised(clean, noise, sigma)
            told = prompts_of(wanted, empty, chosen, torch.rand(course.batch, generator=generator) < EMPTY)
            error = made.denoise(x, sigma, told) - clean
            total = total + (error / sigma).square().mean()  # of (x - D) / sigma against (x - x0) / sigma
        return total / course.levels

    with torch.enable_grad():
        stage.run(loss, report=report)
    return stage, stage.averaged()["network"]


def _copy(network: nn.Module, fresh: bool) -> nn.Module:
    """A network of its own, in full precision; a fresh one has its modules' own random weights."""
    made = copy.deepcopy(network).float().train().requires_grad_(True)
    for module in made.modules() if fresh else ():
        reset: Any = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return made


def prompts_of(wanted: Prompts, empty: Prompts, rows: Tensor, dropped: Tensor) -> Prompts:
    """The prompts of some examples, of which those that are dropped have the negative one."""

    def pick(own: Tensor, other: Tensor) -> Tensor:
        taken, mask = own[rows.to(own.device)], dropped.to(own.device)
        return torch.where(mask.view(-1, *[1] * (taken.ndim - 1)), other.expand_as(taken), taken)

    extras = {name: pick(tensor, empty.extras[name]) for name, tensor in wanted.extras.items()}
    return Prompts(pick(wanted.features, empty.features), extras, wanted.guidance)
