"""Pictures that a prompt speaks of: for networks that read them beside the one that they draw, and edit them so."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from graphengine import VAE, Conditioning, Context, Field, Image, Latent, Node, Ports, TextEncoder
from graphengine.models import pieces

from .conditioning import note_words

Resizing = Literal["as_trained", "none"]


class ReferencePicture(Node, category="conditioning", lane="gpu"):
    """Let a prompt speak of a picture, which the network reads beside the one that it draws.

    Several are read in the order in which they were added.  A negative prompt without any reads the same.
    """

    conditioning: Conditioning = Field(description="the prompt that speaks of the picture")
    vae: VAE
    image: Image = Field(description="one picture, or one for every picture that is drawn")
    resize: Resizing = Field(
        "as_trained",
        description="as_trained: to a size at which the model was shown pictures in training; none: as it is",
    )

    class Outputs(Ports):
        conditioning: Conditioning

    def run(self, ctx: Context) -> Outputs:
        if self.vae.space is None:
            raise ValueError(f"the VAE of {self.vae.checkpoint} does not say what its latents are.")
        pixels = self._as_trained(ctx) if self.resize == "as_trained" else self.image.pixels[..., :3]
        height, width = pixels.shape[1:3]
        factor = self.vae.space.factor
        if width % factor or height % factor:
            raise ValueError(
                f"the picture is {width} x {height}; both must be multiples of {factor}. "
                "Resize or pad it, or set resize to as_trained."
            )
        ctx.settings.check_pixels(width, height, len(pixels))
        latent = Latent(pieces.encode(ctx, self.vae, pixels), self.vae.space)
        references = (*self.conditioning.references, latent)
        return self.Outputs(conditioning=replace(self.conditioning, references=references))

    def _as_trained(self, ctx: Context) -> np.ndarray:
        from graphengine.models.family import RefersToPictures
        from graphengine.planes import as_picture

        vae, pixels = ctx.models.vae(self.vae), self.image.pixels[..., :3]
        if not isinstance(vae, RefersToPictures):
            raise ValueError(
                f"no model that {self.vae.checkpoint} belongs to reads reference pictures. For models that edit by "
                "instructions use InstructLatent."
            )
        size, kept = vae.reference_size(*self.image.size)
        if size != self.image.size:
            made = [np.asarray(as_picture(picture, size), np.float32) / 255 for picture in pixels]
            pixels = np.stack(made)
        left, top = (size[0] - kept[0]) // 2, (size[1] - kept[1]) // 2
        return pixels[:, top : top + kept[1], left : left + kept[0]]


class EncodeTextSeeing(Node, category="conditioning", lane="gpu"):
    """Encode a prompt with a text encoder that sees the pictures that the prompt speaks of.

    The network that draws is shown them by ReferencePicture.  Words beyond the encoder's length are cut, and that is noted.
    """

    encoder: TextEncoder
    text: str = Field(
        "", max_length=20_000, description="the prompt, such as what to change; empty for no guidance by text"
    )
    images: list[Image] = Field(
        min_length=1, max_length=16, description="single pictures, in the order they are spoken of"
    )
    resize: Resizing = Field(
        "as_trained", description="as_trained: seen at the size of pictures in training; none: as large as they are"
    )

    class Outputs(Ports):
        conditioning: Conditioning

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.family import SeesPictures

        for number, image in enumerate(self.images, 1):
            if len(image) != 1:
                raise ValueError(f"picture {number} is a batch of {len(image)}; the text encoder sees single pictures.")
        encoder = ctx.models.text_encoder(self.encoder)
        if not isinstance(encoder, SeesPictures):
            raise ValueError(f"the text encoder of {self.encoder.checkpoint} sees no pictures. Use EncodeText.")
        pictures = [image.pixels[0, ..., :3] for image in self.images]
        encoded = encoder.encode_seeing(self.text, pictures, self.resize == "as_trained")
        note_words(ctx, self.encoder, encoded)
        made = Conditioning(encoded.features, self.encoder.kind, self.text, encoded.extras)
        return self.Outputs(conditioning=made)
