"""The reverse process: from noise to a latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from graphengine import Conditioning, Context, Denoiser, Field, Latent, Node, Ports
from graphengine.trajectory import Trajectory
from graphengine.values import Control, Guider

if TYPE_CHECKING:
    from graphengine.models.attention import Recorder
    from graphengine.models.sampling import Request

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
    inversion: Trajectory | None = Field(
        None,
        description="the latent's way to noise, of DDIMInversion: sampling goes back from it, not from drawn noise",
    )

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Any:
        return self.Outputs(latent=self.sampled(ctx))

    def sampled(
        self, ctx: Context, seen: Callable[[Any], None] = lambda estimate: None, recorder: Recorder | None = None
    ) -> Latent:
        """The latent; `seen` is told the estimate of the clean samples after every step, `recorder` what is looked at."""
        from graphengine.models.sampling import sample, sample_singly

        self._check()
        if self.denoise == 0:
            return self.latent
        model, request = self.asked(ctx, recorder)
        draw = sample if ctx.frugal < 2 else sample_singly  # out of memory twice: picture by picture
        samples = draw(model, self.latent, request, self.reporter(ctx, seen))
        return replace(self.latent, samples=samples, empty=False)

    def asked(self, ctx: Context, recorder: Recorder | None = None) -> tuple[Any, Request]:
        """The loaded denoiser, and what is wanted of it.  Raises ValueError when inputs do not go together."""
        from graphengine.models.sampling import Request

        self._check()
        guider = self.guidance if isinstance(self.guidance, Guider) else Guider(self.guidance)
        denoiser = self._seeing()
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
            guider.perturbation and ctx.models.denoiser(denoiser.patched(guider.perturbation.patch())),
            guider.excitation and ctx.models.denoiser(denoiser.patched(guider.excitation.patch())),
            recorder,
            self.inversion,
        )
        drawing = denoiser.patched(recorder.patch()) if recorder else denoiser
        return ctx.models.denoiser(drawing), request

    def reporter(
        self, ctx: Context, seen: Callable[[Any], None] = lambda estimate: None
    ) -> Callable[[int, int, Any], None]:
        """What is called after every step: it reports progress, with a preview, and tells `seen` the estimate."""
        from graphengine.models.preview import latent_picture

        vae = self.denoiser.vae()

        def report(done: int, total: int, denoised: Any) -> None:
            shown = None if denoised is None or vae is None else lambda: latent_picture(ctx.models.vae(vae), denoised)
            if denoised is not None:
                seen(denoised)
            ctx.progress(done, total, shown)

        return report

    def _seeing(self) -> Denoiser:
        """The denoiser, by which the prompts' pictures can be seen."""
        prompts = [prompt for prompt in (self.positive, self.negative) if prompt]
        seeing = self.denoiser
        for patch in dict.fromkeys(each.adapter.patch() for prompt in prompts for each in prompt.pictures):
            seeing = seeing.patched(patch)
        return seeing

    def _controls(self) -> list[Control]:
        return [control for prompt in (self.positive, self.negative) if prompt for control in prompt.controls]

    def _check(self) -> None:
        if self.stop <= self.start:
            raise ValueError(f"sampling must stop ({self.stop}) after it starts ({self.start}).")
        if self.latent.space != self.denoiser.space:
            raise ValueError(f"the latent was not made by a VAE that goes with {self.denoiser.checkpoint}.")
        if self.inversion is not None:
            self.inversion.check(self.latent)
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
