"""Loading models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from graphengine import VAE, Context, Denoiser, Field, Node, Ports, Settings, TextEncoder
from graphengine.models import alone
from graphengine.models import checkpoint as checkpoints


class LoadCheckpoint(Node, category="model", lane="io"):
    """Find a checkpoint and hand out its denoiser, text encoder and VAE; weights are read when first used."""

    checkpoint: str = Field(
        description="folder name in the model folders; `tiny` comes with GraphEngine",
        json_schema_extra={"models": ["checkpoint"]},
    )

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


class LoadDenoiser(Node, category="model", lane="io"):
    """Find a denoiser: that of a whole checkpoint, or a U-Net that lies alone in a folder or a file."""

    denoiser: str = Field(
        description="name in the folder `diffusion_models` of a model folder, or of a checkpoint",
        json_schema_extra={"models": ["denoiser", "checkpoint"]},
    )

    class Outputs(Ports):
        denoiser: Denoiser

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": alone.find(inputs["denoiser"], "denoiser", settings).digest}

    def run(self, ctx: Context) -> Outputs:
        found = alone.find(self.denoiser, "denoiser", ctx.settings)
        assert isinstance(found, Denoiser)
        return self.Outputs(denoiser=found)


class LoadTextEncoder(Node, category="model", lane="io"):
    """Find a text encoder: that of a whole checkpoint, or a text encoder that lies alone in a folder or in files."""

    text_encoder: str = Field(
        description="name in the folder `text_encoders` of a model folder, or of a checkpoint",
        json_schema_extra={"models": ["text_encoder", "checkpoint"]},
    )
    second: str = Field(
        "",
        description="file of a second text encoder, for models that have several",
        json_schema_extra={"models": ["text_encoder"]},
    )
    third: str = Field("", description="file of a third text encoder", json_schema_extra={"models": ["text_encoder"]})
    kind: str = Field(
        "auto", description="model whose prompts it makes, where several have the same text encoders; else `auto`"
    )

    class Outputs(Ports):
        text_encoder: TextEncoder

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        more = tuple(filter(None, (inputs["second"], inputs["third"])))
        found = alone.find(inputs["text_encoder"], "text_encoder", settings, inputs["kind"], more)
        return {"digest": found.digest}

    def run(self, ctx: Context) -> Outputs:
        more = tuple(filter(None, (self.second, self.third)))
        found = alone.find(self.text_encoder, "text_encoder", ctx.settings, self.kind, more)
        assert isinstance(found, TextEncoder)
        return self.Outputs(text_encoder=found)


class LoadVAE(Node, category="model", lane="io"):
    """Find a VAE: that of a whole checkpoint, or one that lies alone in a folder or a file."""

    vae: str = Field(
        description="name in the folder `vae` of a model folder, or of a checkpoint",
        json_schema_extra={"models": ["vae", "checkpoint"]},
    )
    kind: Literal["auto", "sd", "sdxl", "sd3", "flux"] = Field(
        "auto", description="what its latents are scaled for; a file alone does not say it"
    )

    class Outputs(Ports):
        vae: VAE

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": alone.find(inputs["vae"], "vae", settings, inputs["kind"]).digest}

    def run(self, ctx: Context) -> Outputs:
        found = alone.find(self.vae, "vae", ctx.settings, self.kind)
        assert isinstance(found, VAE)
        return self.Outputs(vae=found)
