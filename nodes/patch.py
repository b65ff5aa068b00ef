"""Patches: small changes put on top of a loaded model, seen only by what comes after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import Context, Denoiser, Field, Node, Ports, Settings, TextEncoder
from graphengine.fingerprint import remembered_digest
from graphengine.models import checkpoint as checkpoints
from graphengine.values import Patch


class LoadLora(Node, category="model", lane="io"):
    """Add a LoRA to a denoiser and its text encoder.  Several add up, in whatever order."""

    denoiser: Denoiser
    text_encoder: TextEncoder
    lora: str = Field(
        description="file in the folder `loras` of a model folder", json_schema_extra={"models": ["lora"]}
    )
    strength: float = Field(1.0, ge=-10, le=10, description="for the denoiser; 0 changes nothing")
    text_strength: float = Field(1.0, ge=-10, le=10, description="for the text encoder")

    class Outputs(Ports):
        denoiser: Denoiser
        text_encoder: TextEncoder

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        path = checkpoints.find_file(inputs["lora"], "loras", settings)
        return {"digest": remembered_digest(path, settings.cache_folder)}

    def run(self, ctx: Context) -> Outputs:
        path = checkpoints.find_file(self.lora, "loras", ctx.settings)
        checkpoints.check_fits(path, self.denoiser)
        digest = remembered_digest(path, ctx.settings.cache_folder)

        def patch(strength: float) -> Patch:
            return Patch("lora", self.lora, (strength,), digest, str(path))

        denoiser = self.denoiser.patched(patch(self.strength)) if self.strength else self.denoiser
        encoder = self.text_encoder.patched(patch(self.text_strength)) if self.text_strength else self.text_encoder
        return self.Outputs(denoiser=denoiser, text_encoder=encoder)


class ClipSkip(Node, category="model"):
    """Read the prompt from an earlier layer of a CLIP text encoder, as some finetunes were trained to."""

    text_encoder: TextEncoder
    layers: int = Field(1, ge=0, le=11, description="layers left out at the end; 0 leaves out none")

    class Outputs(Ports):
        text_encoder: TextEncoder

    def run(self, ctx: Context) -> Outputs:
        if not self.layers:
            return self.Outputs(text_encoder=self.text_encoder)
        patch = Patch("clip_skip", f"{self.layers} layers", (float(self.layers),))
        return self.Outputs(text_encoder=self.text_encoder.patched(patch))


class FreeU(Node, category="model"):
    """Strengthen what a U-Net's backbone says, and weaken its skip connections (Si et al. 2024)."""

    denoiser: Denoiser
    skip_1: float = Field(0.9, ge=0, le=3, description="scale of the skips at the lowest level")
    skip_2: float = Field(0.2, ge=0, le=3, description="scale of the skips one level up")
    backbone_1: float = Field(1.2, ge=0, le=3, description="scale of half the backbone's channels at the lowest level")
    backbone_2: float = Field(1.4, ge=0, le=3, description="the same, one level up")

    class Outputs(Ports):
        denoiser: Denoiser

    def run(self, ctx: Context) -> Outputs:
        values = (self.skip_1, self.skip_2, self.backbone_1, self.backbone_2)
        return self.Outputs(denoiser=self.denoiser.patched(Patch("freeu", "FreeU", values)))
