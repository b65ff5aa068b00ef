"""The latent space: what the autoencoder keeps, what latents look like, and the way from one to another."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from graphengine import VAE, Context, Field, Image, Latent, Node, Ports


class BlendLatents(Node, category="latent"):
    """A latent on the way from one to another.  A list of shares gives the whole way."""

    first: Latent
    second: Latent
    share: float = Field(0.5, ge=0, le=1, description="0 is the first latent, 1 the second")
    way: Literal["linear", "spherical"] = Field(
        "linear", description="spherical keeps the length on the way, as noise wants it (Shoemake 1985)"
    )

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        first, second = self.first.samples, self.second.samples
        if self.first.space != self.second.space:
            raise ValueError("the latents belong to different models.")
        if first.shape != second.shape:
            raise ValueError(f"the latents are {[*first.shape]} and {[*second.shape]}; they must be alike.")
        blend = _spherical if self.way == "spherical" else _linear
        return self.Outputs(latent=Latent(blend(first, second, self.share), self.first.space))


def _linear(first: Any, second: Any, share: float) -> Any:
    return first + (second - first) * share


def _spherical(first: Any, second: Any, share: float) -> Any:
    """Along the great circle between each two rows."""
    import torch

    a, b = first.flatten(1), second.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(a, b).clamp(-1, 1)[:, None]
    angle = cosine.acos()
    flat = angle < 1e-4  # parallel: the straight line is the arc
    sine = torch.where(flat, torch.ones_like(angle), angle.sin())
    arc = ((1 - share) * angle).sin() / sine * a + (share * angle).sin() / sine * b
    return torch.where(flat, a + (b - a) * share, arc).reshape(first.shape)


class LatentChannels(Node, category="latent"):
    """Latents as grey pictures, one for each channel: dark is the least value of the latent, light the greatest."""

    latent: Latent
    cell: int = Field(8, ge=1, le=64, description="pixels along a side of one latent cell")

    class Outputs(Ports):
        images: list[Image]

    def run(self, ctx: Context) -> Outputs:
        planes = self.latent.samples.numpy()
        ctx.settings.check_pixels(planes.shape[3] * self.cell, planes.shape[2] * self.cell, planes.shape[0])
        low, high = float(planes.min()), float(planes.max())
        grey = (planes - low) / max(high - low, 1e-6)
        large = grey.repeat(self.cell, axis=2).repeat(self.cell, axis=3).astype(np.float32)
        return self.Outputs(
            images=[Image(np.repeat(large[:, c, ..., None], 3, axis=-1)) for c in range(large.shape[1])]
        )


class LatentPreview(Node, category="latent", lane="gpu"):
    """Latents as small colour pictures, one pixel for each cell: what previews show while a sampler works."""

    vae: VAE
    latent: Latent
    cell: int = Field(8, ge=1, le=64, description="pixels along a side of one latent cell")

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.preview import latent_picture

        if self.latent.space != self.vae.space:
            raise ValueError(f"the latent belongs to another model than the VAE of {self.vae.checkpoint}.")
        small = latent_picture(ctx.models.vae(self.vae), self.latent.samples).pixels
        return self.Outputs(image=Image(small.repeat(self.cell, axis=1).repeat(self.cell, axis=2)))


class CompareImages(Node, category="image"):
    """How near two pictures of one size are: peak signal-to-noise ratio, and the greatest difference of any value."""

    image: Image
    other: Image

    class Outputs(Ports):
        psnr: float
        greatest: float

    def run(self, ctx: Context) -> Outputs:
        if self.image.pixels.shape != self.other.pixels.shape:
            raise ValueError(
                f"the pictures are {[*self.image.pixels.shape]} and {[*self.other.pixels.shape]}; they must be alike."
            )
        difference = self.image.pixels.astype(np.float64) - self.other.pixels
        error = float(np.square(difference).mean())
        return self.Outputs(psnr=10 * np.log10(1 / max(error, 1e-10)), greatest=float(np.abs(difference).max()))
