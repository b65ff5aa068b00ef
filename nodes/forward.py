"""The forward process: how data becomes noise.

Nothing here needs a model: a picture with values in -1..1 (or a latent) and a schedule are enough.  A timestep t of a
schedule keeps sqrt(abar_t) of the data and adds noise of variance 1 - abar_t (Ho et al. 2020, eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from graphengine import Context, Denoiser, Field, Image, Latent, Node, Ports
from graphengine.values import Curve, VarianceSchedule


class BetaSchedule(Node, category="schedule"):
    """A schedule of the field: how much noise each of many small steps adds."""

    kind: Literal["linear", "scaled_linear", "cosine"] = Field(
        "linear",
        description="linear: Ho et al. 2020; scaled_linear: Rombach et al. 2022; cosine: Nichol & Dhariwal 2021",
    )
    steps: int = Field(1000, ge=2, le=10_000, description="timesteps T")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="variance of the first step's noise; cosine has its own")
    beta_end: float = Field(0.02, gt=0, lt=1, description="variance of the last step's noise; cosine has its own")

    class Outputs(Ports):
        schedule: VarianceSchedule

    def run(self, ctx: Context) -> Outputs:
        from graphengine.diffusion.sigmas import NoiseSchedule

        if self.beta_end < self.beta_start:
            raise ValueError(
                f"beta_end {self.beta_end} is less than beta_start {self.beta_start}; noise must not shrink."
            )
        options = (self.steps,) if self.kind == "cosine" else (self.beta_start, self.beta_end, self.steps)
        made = getattr(NoiseSchedule, self.kind)(*options)
        return self.Outputs(schedule=VarianceSchedule(tuple(made.alphas_cumprod.tolist())))


class ModelSchedule(Node, category="schedule", lane="gpu"):
    """The schedule that a denoiser was trained with."""

    denoiser: Denoiser

    class Outputs(Ports):
        schedule: VarianceSchedule

    def run(self, ctx: Context) -> Outputs:
        schedule = ctx.models.denoiser(self.denoiser).schedule
        levels = getattr(schedule, "alphas_cumprod", None)
        if levels is None:
            raise ValueError(
                f"{self.denoiser.checkpoint} was trained on straight lines (flow); it has no variance schedule."
            )
        return self.Outputs(schedule=VarianceSchedule(tuple(levels.tolist())))


class ScheduleCurves(Node, category="schedule"):
    """What a schedule does, as curves over the timestep: the data's share, the noise's, and the signal-to-noise ratio."""

    schedule: VarianceSchedule

    class Outputs(Ports):
        signal: Curve
        noise: Curve
        snr: Curve

    def run(self, ctx: Context) -> Outputs:
        abar = np.array(self.schedule.alphas_cumprod)
        steps = range(len(abar))

        def curve(name: str, values: Any) -> Curve:
            return Curve(name, tuple(steps), tuple(values))

        with np.errstate(divide="ignore"):
            ratio = abar / (1 - abar)
        return self.Outputs(
            signal=curve("signal: sqrt(abar)", np.sqrt(abar)),
            noise=curve("noise: sqrt(1 - abar)", np.sqrt(1 - abar)),
            snr=curve("abar / (1 - abar)", ratio),
        )


class AddNoise(Node, category="schedule"):
    """Noise data in one jump: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.  A list of timesteps gives one of each.

    A picture is shown as far as 0..1 can: values outside are cut off.
    """

    image: Image | None = Field(None, description="pictures to noise")
    latent: Latent | None = Field(None, description="latents to noise")
    schedule: VarianceSchedule
    timestep: int = Field(500, ge=0, description="0 is nearly clean, the schedule's last nearly pure noise")
    seed: int = Field(0, ge=0, lt=2**64, description="item i of a batch uses seed + i")

    class Outputs(Ports):
        image: Image | None
        latent: Latent | None

    def run(self, ctx: Context) -> Outputs:
        import torch

        from graphengine.diffusion.forward import add_noise_vp

        abar = torch.tensor(self.schedule.at(self.timestep))
        return self.Outputs(**_noised(self, lambda clean, noise: add_noise_vp(clean, noise(), abar)))


class AddNoiseStepwise(Node, category="schedule"):
    """Noise data in the t small steps of the definition: x_s = sqrt(1 - beta_s) x_(s-1) + sqrt(beta_s) eps_s.

    Equal to `AddNoise` in distribution, and slower: that it may be done in one jump is what makes training possible.
    """

    image: Image | None = Field(None, description="pictures to noise")
    latent: Latent | None = Field(None, description="latents to noise")
    schedule: VarianceSchedule
    timestep: int = Field(500, ge=0, description="how far to go; one draw of noise for each step")
    seed: int = Field(0, ge=0, lt=2**64, description="item i of a batch uses seed + i")

    class Outputs(Ports):
        image: Image | None
        latent: Latent | None

    def run(self, ctx: Context) -> Outputs:
        self.schedule.at(self.timestep)

        def walk(x: Any, noise: Any) -> Any:
            before = 1.0
            for done, abar in enumerate(self.schedule.alphas_cumprod[: self.timestep + 1], 1):
                keep = abar / before if before else 0.0  # 1 - beta
                x = keep**0.5 * x + (1 - keep) ** 0.5 * noise()
                before = abar
                ctx.progress(done, self.timestep + 1)
            return x

        return self.Outputs(**_noised(self, walk))


def _noised(node: AddNoise | AddNoiseStepwise, change: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """What `change(data, noise)` makes of a node's picture (as values in -1..1) or latent; the other stays None."""
    import torch

    from graphengine.diffusion.noise import NoiseSource, batch_seeds

    if (node.image is None) == (node.latent is None):
        raise ValueError("link either an image or a latent.")

    def changed(clean: Any) -> Any:
        shape = tuple(clean.shape[1:])
        return change(clean, NoiseSource(batch_seeds(node.seed, len(clean)), shape, "cpu", torch.float32))

    if node.latent is not None:
        return {"image": None, "latent": replace(node.latent, samples=changed(node.latent.samples), empty=False)}
    assert node.image is not None
    clean = torch.from_numpy(node.image.pixels[..., :3].copy()).permute(0, 3, 1, 2) * 2 - 1
    shown = ((changed(clean) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).contiguous()
    return {"image": Image(shown.numpy()), "latent": None}
