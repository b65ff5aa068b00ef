"""What edits of given pictures are made of: inverting latents, keeping guided sampling on the way that was found, and
finding where two prompts disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule
from graphengine.diffusion.guidance import Guidance
from graphengine.diffusion.inversion import invert
from graphengine.diffusion.noise import NoiseSource, batch_seeds
from graphengine.diffusion.sigmas import sigma_schedule
from graphengine.models.family import DenoiserAdapter, Prompts
from graphengine.models.sampling import Progress, Request, _beside, _guidance, _guided, _row_of
from graphengine.trajectory import LevelFeatures, Trajectory
from graphengine.values import Latent

LEVELS = 100
"""Steps of the schedule from which the level of a strength is taken."""
NEAR, NEARER_BY = 1e-5, 2e-5
"""The mean square at which a fitted prompt is good enough in the first step, and by how much more in each further one."""


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
def null_text(
    model: DenoiserAdapter, latent: Latent, request: Request, rounds: int, rate: float, progress: Progress
) -> LevelFeatures:
    """Features of the negative prompt, one for each step, with which guided sampling goes back along an inversion.

    Step by step, from the noisy end: with x where sampling has come to, the features are fitted (Adam) until the step
    from x arrives where the inversion was (Mokady et al. 2023, section 3.2; the mean square is taken at the scale of a
    variance-preserving process, where the paper's limits hold).  Each step begins with the features of the one before.
    `progress(done, total, None)` is called after every step and may raise.  Raises ValueError where there is nothing to fit.
    """
    way, negative = request.inversion, request.negative
    if way is None or negative is None or request.guider.scale == 1:
        raise ValueError("with guidance 1 there is no negative prompt to be fitted; set the sampler's guidance.")
    if model.embeds_guidance:
        raise ValueError("the network is told the guidance scale; it reads no negative prompt that could be fitted.")
    batch = len(latent.samples)
    sigmas = torch.tensor(way.sigmas, device=model.device).flip(0)
    samples = way.samples.flip(0).to(model.device)
    beside, scale = _beside(model, latent), request.guider.scale
    wanted = Prompts.of(request.positive, batch, model.device, scale).told(beside)
    bare = Prompts.of(negative, batch, model.device, scale, negative=True).told(beside)
    guidance = _guidance(model, request.guider, sigmas)
    x, features, found = samples[0], bare.features.float(), []
    total = len(sigmas) - 1
    for index in range(total):
        level, after = sigmas[index], sigmas[index + 1]
        sure = model.denoise(x, level, wanted.at(level))
        step = partial(_stepped, model, guidance, bare, (level, after), x, sure)
        if guidance.needs_unconditional(float(level)):
            fit = Fit(rounds, rate * max(0.01, 1 - index / 100), NEAR + NEARER_BY * index)
            scale = 1.0 if isinstance(model.schedule, FlowSchedule) else float(1 + after**2) ** 0.5
            features = _fitted(step, samples[index + 1], scale, features, fit)
        found.append(features.cpu())
        x = step(features)
        progress(index + 1, total, None)
    return LevelFeatures(torch.stack(found), tuple(sigmas[:-1].tolist()))


@dataclass(frozen=True)
class Fit:
    """How features are fitted: at most so many rounds, at a rate, until the mean square is `enough`."""

    rounds: int
    rate: float
    enough: float


def _stepped(
    model: DenoiserAdapter,
    guidance: Guidance,
    bare: Prompts,
    levels: tuple[Tensor, Tensor],
    x: Tensor,
    sure: Tensor,
    features: Tensor,
) -> Tensor:
    """Where Euler's step from one level to the next leads with these features of the negative prompt."""
    level, after = levels
    unsure = model.denoise(x, level, replace(bare, features=features).at(level))
    estimate = guidance.combine(sure, unsure, x, float(level))
    return estimate + after / level * (x - estimate)


def _fitted(step: Callable[[Tensor], Tensor], goal: Tensor, scale: float, features: Tensor, fit: Fit) -> Tensor:
    """Features with which a step comes near its goal; a picture of the batch that is near enough is left alone."""
    fitted = features.clone().requires_grad_()
    adam = torch.optim.Adam([fitted], lr=fit.rate)
    for _ in range(fit.rounds):
        with torch.enable_grad():
            errors = ((step(fitted) - goal) / scale).square().flatten(1).mean(1)
            fitted.grad = torch.autograd.grad(errors.sum(), fitted)[0]
        near = errors.detach() < fit.enough
        if near.all():
            break
        before = fitted.detach().clone()
        adam.step()
        fitted[near] = before[near]
    return fitted.detach()


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
