"""One loop for every sampler, schedule, guidance and family: what the Sampler node runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphengine.diffusion import guidance as guide
from graphengine.diffusion.flow import PROBABILITY_FLOW, FlowSchedule, exploding, exploding_sigmas
from graphengine.diffusion.masks import masked_denoise
from graphengine.diffusion.noise import NoiseSource, batch_seeds
from graphengine.diffusion.samplers import Denoise, sampler
from graphengine.diffusion.sigmas import sigma_schedule
from graphengine.models.family import DenoiserAdapter, Prompts
from graphengine.values import Conditioning, Guider, Latent, Mask

Progress = Callable[[int, int, Tensor | None], None]
"""Steps through, steps in all, and the present estimate of the clean latents."""


@dataclass(frozen=True)
class Request:
    """What is wanted of a sampling run."""

    positive: Conditioning
    negative: Conditioning | None
    guider: Guider
    seed: int
    steps: int
    sampler: str
    schedule: str
    denoise: float = 1.0


@torch.no_grad()
def sample(model: DenoiserAdapter, latent: Latent, request: Request, progress: Progress) -> Tensor:
    """Denoised samples `[B, C, h, w]` on the CPU.

    With `denoise` 1 the latent is ignored and x starts at pure noise; below 1 it starts at the latent with the noise
    of the first level.
    `progress(done, total, denoised)` is called after every step and may raise.
    """
    batch, *shape = latent.samples.shape
    noise = NoiseSource(batch_seeds(request.seed, batch), tuple(shape), model.device, torch.float32)
    schedule = model.schedule_for((batch, *shape))
    sigmas = sigma_schedule(request.schedule, schedule, request.steps, request.denoise)
    clean = latent.samples.to(model.device, torch.float32)
    drawn, first = noise(), float(sigmas[0])
    x = schedule.start(drawn, first) if request.denoise == 1 else schedule.noised(clean, drawn, first)
    call = _guided(model, request, batch, sigmas)
    if latent.mask is not None:
        mask = _latent_mask(latent.mask, clean)
        call = masked_denoise(call, mask, clean, lambda sigma: schedule.noised(clean, drawn, sigma))
    if isinstance(schedule, FlowSchedule) and request.sampler not in PROBABILITY_FLOW:
        call, sigmas = exploding(call), exploding_sigmas(sigmas)
        x = x * (1 + float(sigmas[0]))
    total = len(sigmas) - 1
    progress(0, total, None)
    for step in sampler(request.sampler)(call, x, sigmas.to(model.device), noise):
        x = step.x
        progress(step.index + 1, total, step.denoised)
    return x.cpu()


def _guided(model: DenoiserAdapter, request: Request, batch: int, sigmas: Tensor) -> Denoise:
    """`denoise(x, sigma)` with the prompts built in; both branches go through the network as one batch."""
    wanted = Prompts.of(request.positive, batch, model.device, request.guider.scale)
    if model.embeds_guidance:
        return lambda x, sigma: model.denoise(x, sigma, wanted)
    guidance = _guidance(model, request.guider, sigmas)
    if request.negative is None:
        if isinstance(guidance, guide.Plain):
            return lambda x, sigma: model.denoise(x, sigma, wanted)
        raise ValueError("guidance other than 1 needs a negative prompt; link `negative`, or set guidance to 1.")
    both = wanted + Prompts.of(request.negative, batch, model.device, request.guider.scale, negative=True)

    def call(x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma)
        if not guidance.needs_unconditional(level):
            return model.denoise(x, sigma, wanted)
        conditional, unconditional = model.denoise(torch.cat([x, x]), sigma, both).chunk(2)
        return guidance.combine(conditional, unconditional, x, level)

    return call


def _guidance(model: DenoiserAdapter, guider: Guider, sigmas: Tensor) -> guide.Guidance:
    if guider.scale == 1:
        return guide.Plain()
    if guider.rescale:
        inner: guide.Guidance = guide.Rescaled(guider.scale, guider.rescale)
    else:
        inner = model.guidance(guider.scale)
    if guider.start == 0 and guider.end == 1:
        return inner
    levels = sigmas[:-1].tolist()
    inside = levels[round(guider.start * len(levels)) : round(guider.end * len(levels))]
    return guide.Interval(inner, inside[-1], inside[0]) if inside else guide.Plain()


def _latent_mask(mask: Mask, like: Tensor) -> Tensor:
    """The mask at the latent's size, `[B or 1, 1, h, w]`: a cell that it touches at all may be repainted."""
    alpha = torch.from_numpy(mask.alpha.copy())[:, None].to(like.device)
    return torch.nn.functional.adaptive_max_pool2d(alpha, like.shape[-2:])
