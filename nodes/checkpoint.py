"""Loading models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import VAE, Context, Denoiser, Field, Node, Ports, Settings, TextEncoder
from graphengine.models import checkpoint as checkpoints


class LoadCheckpoint(Node, category="model", lane="io"):
    """Find a checkpoint and hand out its denoiser, text encoder and VAE; weights are read when first used."""

    checkpoint: str = Field(description="folder name in the model folders; `tiny` comes with GraphEngine")

    class Outputs(Ports):
        denoiser: Denoiser
        text_encoder: TextEncoder
        vae: VAE

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": checkpoints.find(inputs["checkpoint"], settings).digest}

    def run(self, ctx: Context) -> Outputs:
        denoiser, encoder, vae = checkpoints.find(self.checkpoint, ctx.settings).handles()
        return self.Outputs(denoiser=denoiser, text_encoder=encoder, vae=vae)
