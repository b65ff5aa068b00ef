"""Latents: making, encoding, decoding, limiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from graphengine import VAE, Context, Field, Image, Latent, Mask, Node, Ports
from graphengine.models import pieces


class EmptyLatent(Node, category="latent"):
    """A blank canvas for a sampler: zeros of the size that the VAE makes of a picture."""

    vae: VAE
    width: int = Field(64, ge=8, le=8192, description="pixels; a multiple of the VAE's reduction")
    height: int = Field(64, ge=8, le=8192, description="pixels; a multiple of the VAE's reduction")
    batch: int = Field(1, ge=1, le=256, description="pictures at once; picture i uses seed + i")

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        import torch

        ctx.settings.check_pixels(self.width, self.height, self.batch)
        space = self.vae.space
        if space is None:
            raise ValueError(f"the VAE of {self.vae.checkpoint} does not say what its latents are.")
        _check_multiples(self.width, self.height, space.factor)
        shape = (self.batch, space.channels, self.height // space.factor, self.width // space.factor)
        return self.Outputs(latent=Latent(torch.zeros(shape), space, empty=True))


class VAEEncode(Node, category="latent", lane="gpu"):
    """Encode pictures into latents: the mean of what the encoder finds, so that it is the same every time."""

    vae: VAE
    image: Image

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        space = self.vae.space
        width, height = self.image.size
        if space is None or width % space.factor or height % space.factor:
            factor = space.factor if space else "?"
            raise ValueError(
                f"the picture is {width} x {height}; both must be multiples of {factor}. Resize or pad it."
            )
        return self.Outputs(latent=Latent(pieces.encode(ctx, self.vae, self.image.pixels[..., :3]), space))


class VAEDecode(Node, category="latent", lane="gpu"):
    """Decode latents into pictures."""

    vae: VAE
    latent: Latent

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        if self.latent.space != self.vae.space:
            raise ValueError(f"the latent belongs to another model than the VAE of {self.vae.checkpoint}.")
        return self.Outputs(image=Image(pieces.decode(ctx, self.vae, self.latent.samples)))


class ResizeLatent(Node, category="latent"):
    """Bring latents to another size, to be sampled again with a strength below 1: details are drawn anew."""

    latent: Latent
    width: int = Field(ge=8, le=8192, description="pixels; a multiple of the VAE's reduction")
    height: int = Field(ge=8, le=8192, description="pixels; a multiple of the VAE's reduction")
    method: Literal["nearest", "bilinear", "bicubic"] = Field("bicubic", description="how latents are resampled")

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        import torch

        samples, space = self.latent.samples, self.latent.space
        if self.latent.mask is not None or self.latent.beside is not None:
            raise ValueError(
                "the latent has a mask or a picture of its size beside it; resize those, and encode again."
            )
        ctx.settings.check_pixels(self.width, self.height, len(samples))
        _check_multiples(self.width, self.height, space.factor)
        size = (self.height // space.factor, self.width // space.factor)
        mode = "nearest-exact" if self.method == "nearest" else self.method
        made = torch.nn.functional.interpolate(samples, size, mode=mode)
        return self.Outputs(latent=Latent(made, space, empty=self.latent.empty))


class SetLatentMask(Node, category="latent"):
    """Limit what a sampler may repaint to a mask.  The latent outside is kept; paste the pixels back afterwards."""

    latent: Latent
    mask: Mask

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        height, width = (side * self.latent.space.factor for side in self.latent.samples.shape[-2:])
        if self.mask.size != (width, height):
            wide, high = self.mask.size
            raise ValueError(f"the mask is {wide} x {high}, the picture {width} x {height}.")
        if not self.mask.alpha.any():
            raise ValueError("the mask is empty: there is nothing to repaint.")
        return self.Outputs(latent=replace(self.latent, mask=self.mask, empty=False))


def _check_multiples(width: int, height: int, factor: int) -> None:
    for name, length in (("width", width), ("height", height)):
        if length % factor:
            near = max(factor, round(length / factor) * factor)
            raise ValueError(f"{name} {length} is no multiple of {factor}; try {near}.")
