"""Painting pictures larger than what a network was trained on: beyond their edges, or in a part of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np

from graphengine import VAE, Conditioning, Context, Denoiser, Field, Image, Latent, Mask, Node, Ports
from graphengine.models import pieces
from graphengine.values import Guider

from .sampling import Sampler, SamplerName, ScheduleName


class PaintWindows(Node, category="sampling", lane="gpu"):
    """Paint the masked part of a picture window by window (crop and stitch); all other pixels stay bit for bit.

    Each window is of the size that the network was trained on, and holds enough of what is known already.  After Pad this
    is outpainting: to every side, and as far as wanted.
    """

    denoiser: Denoiser
    vae: VAE
    positive: Conditioning = Field(description="what each window shall show")
    negative: Conditioning | None = Field(None, description="what to steer away from; needed unless guidance is 1")
    image: Image
    mask: Mask = Field(description="1 is painted; a value between mixes")
    window: int = Field(64, ge=8, le=8192, description="side of a window in pixels: what the network was trained on")
    most: float = Field(0.25, gt=0, le=1, description="share of a window that is painted at once, where possible")
    seed: int = Field(
        0, ge=0, lt=2**64, description="picture i of a batch of B uses seed + i, in window w seed + w B + i"
    )
    steps: int = Field(20, ge=1, le=1000, description="network calls for each window")
    guidance: Annotated[float, Field(ge=0, le=100)] | Guider = Field(
        1.0, description="scale of classifier-free guidance, or a Guidance node"
    )
    sampler: SamplerName = Field("euler_ancestral", description="one that adds noise fits the seams better")
    schedule: ScheduleName = Field("simple", description="where the noise levels of the steps lie")
    denoise: float = Field(
        1.0,
        gt=0,
        le=1,
        description="1 ignores what lies under the mask; below, its colours go on, as Pad continues them",
    )
    repeats: int = Field(
        4, ge=1, le=20, description="how often every step is taken; more fit the seams better (Lugmayr et al. 2022)"
    )

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        from graphengine.windows import windows

        pixels, alpha = self._pairs()
        unknown = np.asarray(alpha > 0)
        plan = list(windows(np.any(unknown, axis=0), self.window, self.most))
        made = pixels.copy()
        for number, window in enumerate(plan):
            ctx.progress(number, len(plan), lambda: Image(made[..., :3].copy()))
            part, open_ = window.of(made), window.of(alpha) * window.of(unknown)
            painted = self._painted(ctx, np.ascontiguousarray(part), open_, number)
            mixed = part + (painted - part) * open_[..., None]
            part[...] = np.where(open_[..., None] == 1, painted, np.where(open_[..., None] == 0, part, mixed))
            window.of(unknown)[...] = False
        ctx.progress(len(plan), len(plan))
        return self.Outputs(image=Image(made))

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and masks, as many of the one as of the other.  Raises ValueError when they do not go together."""
        pixels, alpha, space = self.image.pixels, self.mask.alpha, self.vae.space
        width, height = self.image.size
        if self.mask.size != self.image.size:
            raise ValueError(f"the mask is {self.mask.size[0]} x {self.mask.size[1]}, the picture {width} x {height}.")
        if not alpha.any():
            raise ValueError("the mask is empty: there is nothing to paint.")
        if space is None:
            raise ValueError(f"the VAE of {self.vae.checkpoint} does not say what its latents are.")
        for side in (min(self.window, width), min(self.window, height)):
            if side % space.factor:
                raise ValueError(f"a window of {side} pixels is no multiple of {space.factor}; set another, or pad.")
        count = max(len(pixels), len(alpha))
        if {len(pixels), len(alpha)} - {1, count}:
            raise ValueError(f"there are {len(alpha)} masks and {len(pixels)} pictures.")
        return np.broadcast_to(pixels, (count, *pixels.shape[1:])), np.broadcast_to(alpha, (count, *alpha.shape[1:]))

    def _painted(self, ctx: Context, part: np.ndarray, alpha: np.ndarray, number: int) -> np.ndarray:
        """A window's pixels `[B, h, w, C]`, painted where `alpha` is above 0."""
        from graphengine.models.sampling import sample, sample_singly

        assert self.vae.space is not None
        colours = part[..., :3]
        samples = pieces.encode(ctx, self.vae, colours)
        latent = Latent(samples, self.vae.space, Mask(np.ascontiguousarray(alpha, np.float32)))
        shared = ("denoiser", "positive", "negative", "steps", "guidance", "sampler", "schedule", "denoise")
        own = {"latent": latent, "seed": (self.seed + number * len(part)) % 2**64}
        plan = Sampler.model_validate({name: getattr(self, name) for name in shared} | own)
        model, request = plan.asked(ctx)
        request = replace(request, repeats=self.repeats)
        draw = sample if ctx.frugal < 2 else sample_singly
        made = pieces.decode(ctx, self.vae, draw(model, latent, request, lambda *told: ctx.check()))
        return np.concatenate([made, np.ones_like(part[..., 3:])], axis=-1)
