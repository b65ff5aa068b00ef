"""Editing a given picture by way of its noise: find the noise that would become it, and draw it with another prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from graphengine import Conditioning, Context, Denoiser, Field, Latent, Mask, Node, Ports
from graphengine.trajectory import Trajectory
from graphengine.values import Guider

from .sampling import Sampler, ScheduleName


class DDIMInversion(Node, category="sampling", lane="gpu"):
    """Find the noise that a deterministic sampler would draw a latent from (Song et al. 2021; Mokady et al. 2023).

    A Sampler takes the inversion beside the latent, with the same steps and schedule and the sampler ddim.  With the same
    prompt it gives the latent again, with another one an edit.  Families of straight lines (flow) are inverted likewise.
    """

    denoiser: Denoiser
    positive: Conditioning = Field(description="what the picture shows")
    negative: Conditioning | None = Field(None, description="needed unless guidance is 1")
    latent: Latent = Field(description="the encoded picture")
    steps: int = Field(50, ge=1, le=1000, description="as many as the sampler's; more come back more exactly")
    guidance: float = Field(1.0, ge=0, le=100, description="1 comes back best, whatever the sampler's is")
    schedule: ScheduleName = Field("simple", description="the sampler's")
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of the steps, from the picture on; below 1 the sampler starts at 1 - share or later",
    )
    fixed_point: int = Field(
        2, ge=0, le=50, description="further network calls a step that make it more exact; 0 is plain DDIM inversion"
    )

    class Outputs(Ports):
        inversion: Trajectory
        latent: Latent = Field(description="the noisy end of it, as a sampler's own noise: of the first noise level")

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.inversion import inverted, inverted_singly

        shared = ("denoiser", "positive", "negative", "latent", "steps", "guidance", "schedule")
        plan = Sampler.model_validate({name: getattr(self, name) for name in shared} | {"sampler": "ddim"})
        model, request = plan.asked(ctx)
        find = inverted if ctx.frugal < 2 else inverted_singly
        request = replace(request, start=1 - self.share)
        way = find(model, self.latent, request, self.fixed_point, plan.reporter(ctx))
        return self.Outputs(inversion=way, latent=Latent(way.samples[-1].clone(), self.latent.space))


class NullText(Node, category="sampling", lane="gpu"):
    """Fit the negative prompt to an inversion, step by step, so that guided sampling comes back (Mokady et al. 2023).

    Without it, guidance above 1 leads away from the picture.  A Sampler takes this negative prompt with the inversion, the
    same guidance, steps and schedule, and the sampler ddim; then its prompt may change a word.  A step costs up to `rounds`
    passes through the network and back.
    """

    denoiser: Denoiser
    positive: Conditioning = Field(description="what the picture shows, as it was inverted with")
    negative: Conditioning = Field(description="where the fit begins; mostly an empty text")
    latent: Latent = Field(description="the latent that was inverted")
    inversion: Trajectory = Field(description="of DDIMInversion, at guidance 1 and share 1")
    guidance: Annotated[float, Field(ge=0, le=100)] | Guider = Field(3.0, description="the sampler's")
    rounds: int = Field(10, ge=1, le=1000, description="steps of the fit for each step of the sampler, at most")
    rate: float = Field(0.01, gt=0, le=1, description="how far a step of the fit goes")

    class Outputs(Ports):
        negative: Conditioning

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.inversion import null_text

        shared = ("denoiser", "positive", "negative", "latent", "guidance", "inversion")
        plan = Sampler.model_validate({name: getattr(self, name) for name in shared} | {"sampler": "ddim"})
        model, request = plan.asked(ctx)
        report = plan.reporter(ctx)
        fitted = null_text(model, self.latent, request, self.rounds, self.rate, report)
        return self.Outputs(negative=replace(self.negative, by_level=fitted))


class DifferenceMask(Node, category="mask", lane="gpu"):
    """A mask of what has to change from one prompt to another: where a denoiser's estimates differ (Couairon et al. 2023).

    Put on the latent by SetLatentMask, it keeps an edit by inversion from changing anything else.
    """

    denoiser: Denoiser
    source: Conditioning = Field(description="what the picture shows")
    target: Conditioning = Field(description="what it shall show")
    latent: Latent = Field(description="the encoded picture")
    seed: int = Field(0, ge=0, lt=2**64, description="picture i of a batch uses seed + i")
    strength: float = Field(0.5, gt=0, le=1, description="how far the latent is noised before it is looked at")
    draws: int = Field(10, ge=1, le=100, description="noises over which the difference is averaged")
    threshold: float = Field(0.5, gt=0, le=1, description="share of the greatest difference from which a cell counts")

    class Outputs(Ports):
        mask: Mask

    def run(self, ctx: Context) -> Outputs:
        import numpy as np

        from graphengine.models.inversion import disagreement

        if self.latent.empty:
            raise ValueError("the latent is a blank canvas: there is nothing to compare. Link that of VAEEncode.")
        shared = {"denoiser": self.denoiser, "latent": self.latent, "seed": self.seed, "guidance": 1.0}
        plans = [Sampler.model_validate(shared | {"positive": prompt}) for prompt in (self.source, self.target)]
        (model, source), (_, target) = (plan.asked(ctx) for plan in plans)
        found = disagreement(
            model,
            self.latent,
            source,
            target,
            self.strength,
            self.draws,
            lambda done, total, _: ctx.progress(done, total),
        )
        if not found.any():
            raise ValueError("the two prompts ask for the same: nothing has to change.")
        factor = self.latent.space.factor
        cells = (found >= self.threshold).numpy().astype(np.float32)
        return self.Outputs(mask=Mask(cells.repeat(factor, axis=1).repeat(factor, axis=2)))
