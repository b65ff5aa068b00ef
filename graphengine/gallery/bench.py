"""Nodes run by themselves on whole batches of drawn pictures: what the figures of editing and of painting rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphengine.node import Context, Node, Services
from graphengine.plugins import load_built_in
from graphengine.registry import Registry
from graphengine.settings import Settings
from graphengine.values import VAE, Conditioning, Denoiser, Image, Latent, TextEncoder

BATCH = 25
"""Pictures at once."""


@dataclass(frozen=True)
class Bench:
    """A loaded model, and nodes to try it by."""

    context: Context
    denoiser: Denoiser
    encoder: TextEncoder
    vae: VAE
    nodes: Mapping[str, type[Node]]

    @classmethod
    def of(cls, model: str, settings: Settings) -> Bench:
        """The bench of a checkpoint.  Raises CheckpointError when it cannot be loaded."""
        from graphengine.compose import Models
        from graphengine.models import checkpoint as checkpoints

        denoiser, encoder, vae = checkpoints.find(model, settings).handles()
        load_built_in(registry := Registry())
        nodes = {info.name: info.type for info in registry}
        return cls(Context("bench", Services(settings, Models(settings))), denoiser, encoder, vae, nodes)

    def run(self, node: str, **inputs: Any) -> Any:
        """The outputs of a built-in node; the model's handles are put in where it has ports of these names."""
        kind = self.nodes[node]
        own = {"denoiser": self.denoiser, "vae": self.vae}
        known = {name: handle for name, handle in own.items() if name in kind.model_fields}
        return kind.model_validate(known | inputs).run(self.context)

    def latent(self, pictures: np.ndarray) -> Latent:
        """Latents of pictures, uint8 `[B, H, W, 3]`."""
        return self.run("VAEEncode", image=image(pictures)).latent

    def prompts(self, texts: Sequence[str]) -> Conditioning:
        """One prompt for each picture."""
        import torch

        read = self.context.models.text_encoder(self.encoder)
        return Conditioning(torch.cat([read.encode(text).features for text in texts]), self.encoder.kind)

    def pictures(self, latent: Latent) -> np.ndarray:
        """Pictures of latents, uint8 `[B, H, W, 3]`."""
        return levels(self.run("VAEDecode", latent=latent).image)


def image(pictures: np.ndarray) -> Image:
    """A value of pictures, uint8 `[B, H, W, 3]`."""
    return Image(pictures.astype(np.float32) / 255)


def levels(image: Image) -> np.ndarray:
    """Pictures of a value, uint8 `[B, H, W, 3]`."""
    return (image.pixels[..., :3] * 255).round().astype(np.uint8)
