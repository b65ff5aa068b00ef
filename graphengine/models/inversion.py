"""Inverting latents, and finding where two prompts disagree about them: what edits of given pictures are made of."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graphengine.diffusion.inversion import invert
from graphengine.diffusion.noise import NoiseSource, batch_seeds
from graphengine.diffusion.sigmas import sigma_schedule
from graphengine.models.family import DenoiserAdapter
from graphengine.models.sampling import Progress, Request, _guided, _row_of
from graphengine.trajectory import Trajectory
from graphengine.values import Latent

LEVELS = 100
"""Steps of the schedule from which the level of a strength is taken."""


@torch.no_grad()
def inverted(
    model: DenoiserAdapter, latent: Latent, request: Request, fixed_point: int, progress: Progress
) -> Trajectory:
    """The way of a clean latent to noise, along the levels of `request` from its end back to its `start`.

    A deterministic sampler of the same request goes back the same way.  With more iterations `fixed_point` a step it
    comes back more exactly; see `diffusion.inversion`.
    `progress(done, total, denoised)` is called after every step and may raise.  Raises ValueError for a blank latent.
    """
    if latent.empty:
        raise ValueError("the latent is a blank canvas: there is nothing to invert. Link that of VAEEncode.")
    schedule = model.schedule_for(tuple(latent.samples.shape))
    sigmas = sigma_schedule(request.schedule, schedule, request.steps)
    first = round(request.start * (len(sigmas) - 1))
    if first == len(sigmas) - 1:
        raise ValueError(f"a share of {1 - request.start:g} of {request.steps} steps is no step; invert more.")
    call = _guided(model, request, latent, sigmas)
    sigmas = sigmas[first:].to(model.device)
    way, total = [latent.samples.to(model.device, torch.float32)], len(sigmas) - 1
    progress(0, total, None)
    for step in invert(call, way[0], sigmas, schedule, fixed_point):
        way.append(step.x)
        progress(step.index + 1, total, step.denoised)
    return Trajectory(torch.stack(way).cpu(), tuple(sigmas.flip(0).tolist()), latent.space)


def inverted_singly(
    model: DenoiserAdapter, latent: Latent, request: Request, fixed_point: int, progress: Progress
) -> Trajectory:
    """Like `inverted`, picture by picture, for less memory."""
    batch, ways = len(latent.samples), []
    for row in range(batch):
        negative = None if request.negative is None else _row_of(request.negative, row)
        own = replace(request, positive=_row_of(request.positive, row), negative=negative)

        def report(done: int, total: int, denoised: Tensor | None, row: int = row) -> None:
            progress(row * total + done, batch * total, denoised)

        ways.append(inverted(model, _row_of(latent, row), own, fixed_point, report))
    return replace(ways[0], samples=torch.cat([way.samples for way in ways], dim=1))


@torch.no_grad()
def disagreement(
    model: DenoiserAdapter,
    latent: Latent,
    source: Request,
    target: Request,
    strength: float,
    draws: int,
    progress: Progress,
) -> Tensor:
    """How much two prompts disagree about each cell of a noised latent, `[B, h, w]`, each picture's greatest value 1.

    The mean over channels and over `draws` of the noise of |D(x, target) - D(x, source)| (Couairon et al. 2023, section
    3.2, step 1), at the level of a `strength` in 0..1.
    """
    batch, *shape = latent.samples.shape
    schedule = model.schedule_for((batch, *shape))
    level = sigma_schedule("simple", schedule, max(1, round(LEVELS * strength)), strength)[:2].to(model.device)
    noise = NoiseSource(batch_seeds(source.seed, batch), tuple(shape), model.device, torch.float32)
    first, second = (_guided(model, request, latent, level) for request in (source, target))
    clean, found = latent.samples.to(model.device, torch.float32), torch.zeros(batch, *shape[1:], device=model.device)
    for done in range(draws):
        x = schedule.noised(clean, noise(), level[0])
        found += (second(x, level[0]) - first(x, level[0])).abs().mean(1)
        progress(done + 1, draws, None)
    return (found / found.amax((1, 2), keepdim=True).clamp(min=1e-12)).cpu()
