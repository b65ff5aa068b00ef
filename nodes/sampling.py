"""The reverse process: from noise to a latent."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from graphengine import Conditioning, Context, Denoiser, Field, Latent, Node, Ports
from graphengine.values import Control, Guider

SamplerName = Literal[
    "euler",
    "euler_ancestral",
    "heun",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "lms",
    "unipc",
    "lcm",
]
ScheduleName = Literal["normal", "karras", "exponential", "simple", "ddim_uniform", "sgm_uniform", "beta"]


class Sampler(Node, category="sampling", lane="gpu"):
    """Remove noise from a latent, step by step, guided by a prompt."""

    denoiser: Denoiser
    positive: Conditioning = Field(description="what the picture shall show")
    negative: Conditioning | None = Field(None, description="what to steer away from; needed unless guidance is 1")
    latent: Latent
    seed: int = Field(0, ge=0, lt=2**64, description="picture i of a batch uses seed + i")
    steps: int = Field(20, ge=1, le=1000, description="network calls (heun makes two of each)")
    guidance: Annotated[float, Field(ge=0, le=100)] | Guider = Field(
        3.0, description="scale of classifier-free guidance, or a Guidance node"
    )
    sampler: SamplerName = Field("dpmpp_2m", description="how the differential equation is solved")
    schedule: ScheduleName = Field("simple", description="where the noise levels of the steps lie")
    denoise: float = Field(1.0, ge=0, le=1, description="strength: 1 starts from pure noise, 0 changes nothing")
    start: float = Field(
        0.0, ge=0, lt=1, description="share of the steps that lies behind; above 0 the latent is noisy already"
    )
    stop: float = Field(1.0, gt=0, le=1, description="share of the steps to stop after; below 1 the latent stays noisy")

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.preview import latent_picture
        from graphengine.models.sampling import Request, sample, sample_singly

        self._check()
        if self.denoise == 0:
            return self.Outputs(latent=self.latent)
        guider = self.guidance if isinstance(self.guidance, Guider) else Guider(self.guidance)
        request = Request(
            self.positive,
            self.negative,
            guider,
            self.seed,
            self.steps,
            self.sampler,
            self.schedule,
            self.denoise,
            self.start,
            self.stop,
            {control.network: ctx.models.control_net(control.network) for control in self._controls()},
        )
        vae = self.denoiser.vae()

        def report(done: int, total: int, denoised: Any) -> None:
            seen = None if denoised is None or vae is None else lambda: latent_picture(ctx.models.vae(vae), denoised)
            ctx.progress(done, total, seen)

        draw = sample if ctx.frugal < 2 else sample_singly  # out of memory twice: picture by picture
        samples = draw(ctx.models.denoiser(self.denoiser), self.latent, request, report)
        return self.Outputs(latent=replace(self.latent, samples=samples, empty=False))

    def _controls(self) -> list[Control]:
        return [control for prompt in (self.positive, self.negative) if prompt for control in prompt.controls]

    def _check(self) -> None:
        if self.stop <= self.start:
            raise ValueError(f"sampling must stop ({self.stop}) after it starts ({self.start}).")
        if self.latent.space != self.denoiser.space:
            raise ValueError(f"the latent was not made by a VAE that goes with {self.denoiser.checkpoint}.")
        for prompt in (self.positive, self.negative):
            if prompt is not None and prompt.encoder != self.denoiser.prompts:
                raise ValueError(
                    f"a prompt was not encoded by a text encoder that goes with {self.denoiser.checkpoint}."
                )
        for control in self._controls():
            if control.network.family != self.denoiser.family:
                raise ValueError(
                    f"the ControlNet {control.network.checkpoint} steers {control.network.family}, "
                    f"but {self.denoiser.checkpoint} is {self.denoiser.family}."
                )
