"""The reverse process: from noise to a latent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from graphengine import Conditioning, Context, Denoiser, Field, Latent, Node, Ports
from graphengine.values import Guider

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

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.preview import latent_picture
        from graphengine.models.sampling import Request, sample

        self._check()
        if self.denoise == 0:
            return self.Outputs(latent=self.latent)
        guider = self.guidance if isinstance(self.guidance, Guider) else Guider(self.guidance)
        request = Request(
            self.positive, self.negative, guider, self.seed, self.steps, self.sampler, self.schedule, self.denoise
        )
        vae = self.denoiser.vae()

        def report(done: int, total: int, denoised: Any) -> None:
            ctx.progress(
                done, total, None if denoised is None else lambda: latent_picture(ctx.models.vae(vae), denoised)
            )

        samples = sample(ctx.models.denoiser(self.denoiser), self.latent, request, report)
        return self.Outputs(latent=Latent(samples, self.latent.space, self.latent.mask))

    def _check(self) -> None:
        if self.latent.space != self.denoiser.space:
            raise ValueError(f"the latent was not made by a VAE that goes with {self.denoiser.checkpoint}.")
        for prompt in (self.positive, self.negative):
            if prompt is not None and prompt.encoder != self.denoiser.prompts:
                raise ValueError(
                    f"a prompt was not encoded by a text encoder that goes with {self.denoiser.checkpoint}."
                )
