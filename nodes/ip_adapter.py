"""Pictures as prompts: IP-Adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphengine import Conditioning, Context, Field, Image, Node, Ports, Settings
from graphengine.guiding import ClipVision, IPAdapter, PicturePrompt
from graphengine.models import ip_adapter_files as files


class LoadIPAdapter(Node, category="model", lane="io"):
    """Find an IP-Adapter of Stable Diffusion 1.x, 2.x or XL: plain, full-face or plus."""

    ip_adapter: str = Field(
        description="safetensors file in the folder `ipadapter` of a model folder",
        json_schema_extra={"models": ["ip_adapter"]},
    )

    class Outputs(Ports):
        ip_adapter: IPAdapter

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": files.adapter(inputs["ip_adapter"], settings).digest}

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(ip_adapter=files.adapter(self.ip_adapter, ctx.settings))


class LoadCLIPVision(Node, category="model", lane="io"):
    """Find the CLIP vision model that an IP-Adapter sees with."""

    clip_vision: str = Field(
        description="folder or safetensors file in the folder `clip_vision` of a model folder",
        json_schema_extra={"models": ["image_encoder"]},
    )

    class Outputs(Ports):
        clip_vision: ClipVision

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": files.vision(inputs["clip_vision"], settings).digest}

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(clip_vision=files.vision(self.clip_vision, ctx.settings).handle())


class ApplyIPAdapter(Node, category="conditioning", lane="gpu"):
    """Show a picture as a part of the prompt: its subject or its style.  Several add up.

    The picture is cropped to its middle square.  The branch of the negative prompt sees what the adapter makes of no
    picture, unless that prompt carries pictures of its own.
    """

    conditioning: Conditioning = Field(description="the prompt that it goes with")
    ip_adapter: IPAdapter
    clip_vision: ClipVision
    image: Image = Field(description="what is shown: one picture, or one for each of the batch")
    strength: float = Field(1.0, ge=0, le=5, description="0 changes nothing; 0.5 leaves room for the text")
    start: float = Field(0.0, ge=0, le=1, description="share of the steps after which it sets in")
    end: float = Field(1.0, ge=0, le=1, description="share of the steps after which it stops")

    class Outputs(Ports):
        conditioning: Conditioning

    def run(self, ctx: Context) -> Outputs:
        self._check()
        if not self.strength:
            return self.Outputs(conditioning=self.conditioning)
        encoder, projector = ctx.models.clip_vision(self.clip_vision), ctx.models.ip_adapter(self.ip_adapter)
        wanted, unwanted = projector.tokens(encoder, encoder.ready(self.image.pil()))
        shown = PicturePrompt(self.ip_adapter, wanted, unwanted, self.strength, self.start, self.end)
        return self.Outputs(conditioning=replace(self.conditioning, pictures=(*self.conditioning.pictures, shown)))

    def _check(self) -> None:
        if self.end <= self.start:
            raise ValueError(f"an IP-Adapter must end ({self.end}) after it starts ({self.start}).")
        adapter, vision = self.ip_adapter, self.clip_vision
        if self.conditioning.features.shape[-1] != adapter.width:
            raise ValueError(
                f"the IP-Adapter {adapter.checkpoint} goes with prompts of width {adapter.width}, and the prompt has "
                f"{self.conditioning.features.shape[-1]}: it was made for another model."
            )
        sees = vision.width if adapter.kind == files.PLAIN else vision.hidden
        if sees != adapter.reads:
            raise ValueError(
                f"the IP-Adapter {adapter.checkpoint} reads what is {adapter.reads} wide, and the CLIP vision model "
                f"{vision.checkpoint} sees {sees}: use the one that it was trained with (mostly ViT-H, for some ViT-G)."
            )
