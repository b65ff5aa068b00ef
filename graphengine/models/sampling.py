"""One loop for every sampler, schedule, guidance and family: what the Sampler node runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from graphengine.diffusion import guidance as guide
from graphengine.diffusion.flow import PROBABILITY_FLOW, FlowSchedule, exploding, exploding_sigmas
from graphengine.diffusion.masks import masked_denoise
from graphengine.diffusion.noise import NoiseSource, batch_seeds
from graphengine.diffusion.resampling import repeated
from graphengine.diffusion.samplers import Denoise, sampler
from graphengine.diffusion.sigmas import Schedule, sigma_schedule
from graphengine.guiding import Projection
from graphengine.models.attention import Recorder
from graphengine.models.control_net import ControlAdapter, Steering, prepare
from graphengine.models.excitation import QUIET, Exciter
from graphengine.models.family import DenoiserAdapter, Prompts
from graphengine.models.ip_adapter import PictureTokens, shown
from graphengine.models.perturbed import refined
from graphengine.trajectory import Trajectory
from graphengine.values import Conditioning, ControlNet, Guider, Image, Latent, Mask

Progress = Callable[[int, int, Tensor | None], None]
"""Steps through, steps in all, and the present estimate of the clean latents."""


@dataclass(frozen=True)
class Request:
    """What is wanted of a sampling run; `start` and `stop` are shares of its steps."""

    positive: Conditioning
    negative: Conditioning | None
    guider: Guider
    seed: int
    steps: int
    sampler: str
    schedule: str
    denoise: float = 1.0
    start: float = 0.0
    stop: float = 1.0
    control_nets: Mapping[ControlNet, ControlAdapter] = field(default_factory=dict)
    """The loaded networks of the prompts' controls."""
    perturbed: DenoiserAdapter | None = None
    """The denoiser with disturbed self-attention, where the guider pushes away from it."""
    excited: DenoiserAdapter | None = None
    """The denoiser whose attention is watched, where the guider moves the latent by it."""
    recorder: Recorder | None = None
    """Whoever records what the denoiser looks at; that must be a watched one."""
    inversion: Trajectory | None = None
    """The way to noise of the latent: x starts on it."""
    repeats: int = 1
    """How often every step is taken, with its noise put back between."""


@torch.no_grad()
def sample(model: DenoiserAdapter, latent: Latent, request: Request, progress: Progress) -> Tensor:
    """Denoised samples `[B, C, h, w]` on the CPU.

    With `denoise` 1 the latent is ignored and x starts at pure noise; below 1 it starts at the latent with the noise
    of the first level.  With `start` above 0 the latent is noisy already, as a run with the same `stop` leaves it.
    With an `inversion`, x starts where that was at the first level, and outside a mask it stays on that way.
    `progress(done, total, denoised)` is called after every step and may raise.
    """
    batch, *shape = latent.samples.shape
    noise = NoiseSource(batch_seeds(request.seed, batch), tuple(shape), model.device, torch.float32)
    schedule = model.schedule_for((batch, *shape))
    sigmas = sigma_schedule(request.schedule, schedule, request.steps, request.denoise)
    call = _guided(model, request, latent, sigmas)
    clean, drawn = latent.samples.to(model.device, torch.float32), noise()
    first, last = _part(request, len(sigmas) - 1)
    ended = 1.0
    for _ in range(first):
        noise()  # each step but the last draws at most once: the parts of a run draw what the whole would
    sigmas = sigmas[first : last + 1]
    x = _begun(schedule, request, clean, drawn, float(sigmas[0]))
    if latent.mask is not None and not model.reads_mask:
        mask = _limits(latent.mask, clean, request)
        call = masked_denoise(call, mask, clean, _known(schedule, request, clean, drawn))
    if isinstance(schedule, FlowSchedule) and (request.sampler not in PROBABILITY_FLOW or request.repeats > 1):
        call, sigmas = exploding(call), exploding_sigmas(sigmas)
        x = x * (1 + float(sigmas[0]))
        ended = 1 + float(sigmas[-1])
    total = len(sigmas) - 1
    progress(0, total, None)
    walk = sampler(request.sampler) if request.repeats == 1 else repeated(sampler(request.sampler), request.repeats)
    for step in walk(call, x, sigmas.to(model.device), noise):
        x = step.x
        progress(step.index + 1, total, step.denoised)
    return (x / ended).cpu()


def sample_singly(model: DenoiserAdapter, latent: Latent, request: Request, progress: Progress) -> Tensor:
    """Like `sample`, picture by picture, for less memory."""
    batch = latent.samples.shape[0]
    rows = []
    for row, seed in enumerate(batch_seeds(request.seed, batch)):
        negative = None if request.negative is None else _row_of(request.negative, row)
        way = request.inversion and request.inversion.row(row)
        own = replace(request, seed=seed, positive=_row_of(request.positive, row), negative=negative, inversion=way)

        def report(done: int, total: int, denoised: Tensor | None, row: int = row) -> None:
            progress(row * total + done, batch * total, denoised)

        rows.append(sample(model, _row_of(latent, row), own, report))
    return torch.cat(rows)


Rows = TypeVar("Rows", Latent, Conditioning)


def _row_of(value: Rows, row: int) -> Rows:
    """One picture's part of a batch; what is shared by all stays."""

    def part(tensor: Any) -> Any:
        return tensor if tensor is None or tensor.shape[0] == 1 else tensor[row : row + 1]

    if isinstance(value, Latent):
        mask = None if value.mask is None else Mask(part(value.mask.alpha))
        return replace(value, samples=part(value.samples), mask=mask, beside=part(value.beside))
    extras = {name: part(tensor) for name, tensor in value.extras.items()}
    controls = tuple(replace(control, hint=Image(part(control.hint.pixels))) for control in value.controls)
    pictures = tuple(replace(each, wanted=part(each.wanted)) for each in value.pictures)
    levels = value.by_level and replace(value.by_level, features=_row_in(value.by_level.features, row))
    references = tuple(_row_of(each, row) for each in value.references)
    parts = {"controls": controls, "pictures": pictures, "references": references, "by_level": levels}
    return replace(value, features=part(value.features), extras=extras, **parts)


def _row_in(levels: Tensor, row: int) -> Tensor:
    return levels if levels.shape[1] == 1 else levels[:, row : row + 1]


def _part(request: Request, steps: int) -> tuple[int, int]:
    """The first of the steps to do, and the first that is left."""
    first, last = round(request.start * steps), round(request.stop * steps)
    if last <= first:
        raise ValueError(f"no step lies between start {request.start} and stop {request.stop} of {steps} steps.")
    return first, last


def _begun(schedule: Schedule, request: Request, latent: Tensor, drawn: Tensor, level: float) -> Tensor:
    if request.inversion is not None:
        return request.inversion.at(level).to(latent)
    if request.start:
        return latent
    return schedule.start(drawn, level) if request.denoise == 1 else schedule.noised(latent, drawn, level)


def _known(schedule: Schedule, request: Request, clean: Tensor, drawn: Tensor) -> Callable[[Tensor], Tensor]:
    """What the latent is outside a mask at a noise level."""
    way = request.inversion
    if way is None:
        return lambda sigma: schedule.noised(clean, drawn, sigma)
    return lambda sigma: way.at(float(sigma)).to(clean)


def _beside(model: DenoiserAdapter, latent: Latent) -> Tensor | None:
    """What the network reads beside the latent.  Raises ValueError when the latent has something else."""
    given = 0 if latent.beside is None else latent.beside.shape[1]
    if not model.beside and (latent.mask is not None or not given):
        return None  # other networks repaint within a mask as well
    if given == model.beside and (read := model.read_beside(latent)) is not None:
        return read.to(model.device, torch.float32)
    own = latent.space.channels
    if not model.beside:
        source = "was not trained to edit pictures by instructions: use VAEEncode"
    elif model.reads_mask:
        source = "wants a mask and a masked picture too: use InpaintLatent"
    else:
        source = "wants a picture to edit too: use InstructLatent"
    raise ValueError(f"the network reads {own + model.beside} channels, the latent gives {own + given}. It {source}.")


def _guided(model: DenoiserAdapter, request: Request, latent: Latent, sigmas: Tensor) -> Denoise:
    """`denoise(x, sigma)` with the prompts built in; all branches go through the network as one batch."""
    batch, beside = latent.samples.shape[0], _beside(model, latent)
    request = _referring(model, latent, request)
    controls, counter = _controls(model, request, latent, sigmas)
    wanted = Prompts.of(request.positive, batch, model.device, request.guider.scale).told(beside)
    wanted = replace(wanted, controls=controls, pictures=_shown(model, request, batch, sigmas))
    image_scale = request.guider.image_scale
    if image_scale is not None and (not model.beside or model.reads_mask):
        raise ValueError("the guidance weighs a picture to edit, but this network reads none. Use Guidance.")
    if model.embeds_guidance and (request.guider.rule or image_scale is not None):
        raise ValueError(
            "the network is told the guidance scale; there is no second estimate to guide by. Use Guidance."
        )
    if request.guider.excitation and (model.embeds_guidance or request.sampler not in QUIET or request.repeats > 1):
        raise ValueError(
            f"attend and excite wants a network with guidance outside and one of the samplers {', '.join(QUIET)}."
        )
    if (meant := request.guider.excitation and request.guider.excitation.text) not in (None, request.positive.text):
        raise ValueError(
            f"the words of {meant!r} shall be attended to, but the prompt is {request.positive.text!r}. Link the "
            f"conditioning of AttendAndExcite."
        )
    network = model.denoise
    if request.recorder:
        request.recorder.begins(latent.samples.shape, sigmas[:-1].tolist())
        network = request.recorder.listening(network)
    if model.embeds_guidance:
        return lambda x, sigma: network(x, sigma, wanted.at(sigma))
    guidance = _guidance(model, request.guider, sigmas)
    rows = wanted
    if request.negative is not None:
        bare = Prompts.of(request.negative, batch, model.device, request.guider.scale, negative=True)
        bare = replace(bare, controls=counter, pictures=_shown(model, request, batch, sigmas, negative=True))
        rows = wanted + bare.told(beside)
        if image_scale not in (None, 1) and beside is not None:
            rows += bare.told(torch.zeros_like(beside))
    elif not isinstance(guidance, guide.Plain):
        raise ValueError("guidance other than 1 needs a negative prompt; link `negative`, or set guidance to 1.")
    branches = rows.features.shape[0] // batch

    def estimates(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        level = float(sigma)
        if not guidance.needs_unconditional(level):
            plain = network(x, sigma, wanted.at(sigma))
            return plain, plain
        made = network(torch.cat([x] * branches), sigma, rows.at(sigma))
        return guidance.combine(made[:batch], made[batch:], x, level), made[:batch]

    call = refined(request.guider, request.perturbed, wanted, sigmas[:-1].tolist(), estimates)
    if request.excited and request.guider.excitation:
        return Exciter(request.guider.excitation, request.excited, wanted, sigmas[:-1].tolist()).moving(call)
    return call


def _referring(model: DenoiserAdapter, latent: Latent, request: Request) -> Request:
    """The request with its reference pictures in both prompts, if the network reads them.  Raises ValueError."""
    positive, negative = request.positive, request.negative
    own = negative.references if negative is not None else ()
    if not positive.references and not own:
        return request
    if not model.reads_references:
        raise ValueError("the prompt refers to pictures, but this network reads none. Leave out ReferencePicture.")
    if any(each.space != latent.space for each in (*positive.references, *own)):
        raise ValueError("a reference picture was encoded by the VAE of another model. Use that of this one.")
    if own and [each.samples.shape[1:] for each in own] != [each.samples.shape[1:] for each in positive.references]:
        raise ValueError(
            "the negative prompt refers to other pictures than the positive one; expected none, which takes the same, "
            "or as many of the same sizes."
        )
    if negative is None or own:
        return request
    return replace(request, negative=replace(negative, references=positive.references))


def _controls(
    model: DenoiserAdapter, request: Request, latent: Latent, sigmas: Tensor
) -> tuple[tuple[Steering, ...], tuple[Steering, ...]]:
    """What steers the branch of the positive prompt, and what steers that of the negative one."""
    batch, _, height, width = latent.samples.shape
    levels = sigmas[:-1].tolist()

    def ready(prompt: Conditioning | None) -> tuple[Steering, ...]:
        found: list[Steering] = []
        for control in prompt.controls if prompt is not None else ():
            network = request.control_nets[control.network]
            model.check_control(network)
            steering = prepare(control, network, (batch, height, width), model.device, levels)
            found += [steering] if steering is not None else []
        return tuple(found)

    wanted, own = ready(request.positive), ready(request.negative)
    if request.negative is None or not request.negative.controls:
        own = tuple(steering for steering in wanted if steering.control.unwanted)
    return wanted, tuple(steering for steering in own if not steering.network.only_wanted)


def _shown(
    model: DenoiserAdapter, request: Request, batch: int, sigmas: Tensor, negative: bool = False
) -> tuple[PictureTokens, ...]:
    """The pictures that a branch sees; a negative prompt with none of its own sees the other's, left blank."""
    own = request.negative.pictures if negative and request.negative else ()
    levels = sigmas[:-1].tolist()
    return shown(own or request.positive.pictures, batch, model.device, levels, nothing=negative and not own)


def _guidance(model: DenoiserAdapter, guider: Guider, sigmas: Tensor) -> guide.Guidance:
    rule = guider.rule
    if guider.scale == 1:
        inner: guide.Guidance = guide.Plain()
    elif isinstance(rule, Projection):
        inner = guide.Projected(guider.scale, rule.parallel, rule.longest, rule.momentum)
    elif rule:
        inner = guide.Optimised(guider.scale)
    elif guider.rescale and not guider.perturbation:
        inner = guide.Rescaled(guider.scale, guider.rescale)
    else:
        inner = model.guidance(guider.scale)
    if guider.image_scale is not None and guider.image_scale != 1:
        inner = guide.Pictured(inner, guider.image_scale)
    elif guider.scale == 1:
        return inner
    if guider.start == 0 and guider.end == 1:
        return inner
    inside = guide.inside(sigmas[:-1].tolist(), guider.start, guider.end)
    return guide.Interval(inner, inside[-1], inside[0]) if inside else guide.Plain()


def _limits(mask: Mask, like: Tensor, request: Request) -> Tensor:
    if request.start and request.inversion is None:
        raise ValueError("a noisy latent cannot be limited to a mask: what it was before is not known.")
    return _latent_mask(mask, like)


def _latent_mask(mask: Mask, like: Tensor) -> Tensor:
    """The mask at the latent's size, `[B or 1, 1, h, w]`: a cell that it touches at all may be repainted."""
    alpha = torch.from_numpy(mask.alpha.copy())[:, None].to(like.device)
    return torch.nn.functional.adaptive_max_pool2d(alpha, like.shape[-2:])
