"""Latents and guidance for networks that read a picture beside the latent: to repaint a part, or to edit by an instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphengine import VAE, Context, Field, Image, Latent, Mask, Node, Ports
from graphengine.models import pieces
from graphengine.values import Guider, LatentSpace

if TYPE_CHECKING:
    from torch import Tensor

GREY = np.float32(0.5)
"""What is put where a picture is to be repainted: the middle of the signal, as the networks were trained."""


class InpaintLatent(Node, category="latent", lane="gpu"):
    """Encode a picture to repaint within a mask, for networks that read the mask and what is left of the picture.

    Other networks take it as well: they are limited to the mask, as by SetLatentMask.  Paste the pixels back afterwards.
    """

    vae: VAE
    image: Image
    mask: Mask = Field(description="1 is painted anew; such a network reads it as 0 or 1, whichever is nearer")

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        import torch

        space = _space(self.vae, self.image)
        pixels, alpha = self._pairs()
        hole = alpha >= GREY
        samples = _encoded(ctx, self.vae, pixels)
        left = _encoded(ctx, self.vae, np.where(hole[..., None], GREY, pixels))
        cells = np.ascontiguousarray(hole[:, None, :: space.factor, :: space.factor], np.float32)
        beside = torch.cat([torch.from_numpy(cells), left], dim=1)
        return self.Outputs(latent=Latent(samples, space, self.mask, beside=beside))

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and masks, as many of the one as of the other."""
        pixels, alpha = self.image.pixels[..., :3], self.mask.alpha
        if self.mask.size != self.image.size:
            (wide, high), (width, height) = self.mask.size, self.image.size
            raise ValueError(f"the mask is {wide} x {high}, the picture {width} x {height}.")
        if not (alpha >= GREY).any():
            raise ValueError("the mask is empty: there is nothing to repaint.")
        count = max(len(pixels), len(alpha))
        if {len(pixels), len(alpha)} - {1, count}:
            raise ValueError(f"there are {len(alpha)} masks and {len(pixels)} pictures.")
        return np.broadcast_to(pixels, (count, *pixels.shape[1:])), np.broadcast_to(alpha, (count, *alpha.shape[1:]))


class InstructLatent(Node, category="latent", lane="gpu"):
    """Encode a picture to edit by an instruction, for networks that read it (InstructPix2Pix)."""

    vae: VAE
    image: Image

    class Outputs(Ports):
        latent: Latent

    def run(self, ctx: Context) -> Outputs:
        space = _space(self.vae, self.image)
        samples = _encoded(ctx, self.vae, self.image.pixels[..., :3])
        return self.Outputs(latent=Latent(samples, space, beside=samples.clone()))


class InstructGuidance(Node, category="conditioning"):
    """How an instruction and the picture that it edits pull, each by itself (Brooks et al. 2023)."""

    text_scale: float = Field(7.5, ge=0, le=100, description="how strongly the instruction pulls")
    image_scale: float = Field(1.5, ge=0, le=100, description="how strongly the result is held to the picture")

    class Outputs(Ports):
        guidance: Guider

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(guidance=Guider(self.text_scale, image_scale=self.image_scale))


def _space(vae: VAE, image: Image) -> LatentSpace:
    width, height = image.size
    if vae.space is None:
        raise ValueError(f"the VAE of {vae.checkpoint} does not say what its latents are.")
    if width % vae.space.factor or height % vae.space.factor:
        raise ValueError(
            f"the picture is {width} x {height}; both must be multiples of {vae.space.factor}. Resize or pad it."
        )
    return vae.space


def _encoded(ctx: Context, vae: VAE, pixels: np.ndarray) -> Tensor:
    """Scaled latents of pixels."""
    return pieces.encode(ctx, vae, pixels)
