"""Steering by a picture: edges, depth, a pose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphengine import Conditioning, Context, Field, Image, Node, Ports, Settings
from graphengine.models import control_files
from graphengine.values import Control, ControlNet


class LoadControlNet(Node, category="model", lane="io"):
    """Find a ControlNet or a T2I-Adapter; its weights are read when first used."""

    control_net: str = Field(
        description="folder or safetensors file in the folder `controlnet` of a model folder",
        json_schema_extra={"models": ["controlnet", "t2i_adapter"]},
    )

    class Outputs(Ports):
        control_net: ControlNet

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": control_files.find(inputs["control_net"], settings).digest}

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(control_net=control_files.find(self.control_net, ctx.settings).handle())


class ApplyControlNet(Node, category="conditioning"):
    """Let a picture steer what a prompt draws.  Several add up.

    The branch of the negative prompt is steered too, unless that prompt carries pictures of its own.
    """

    conditioning: Conditioning = Field(description="the prompt that is steered")
    control_net: ControlNet
    image: Image = Field(description="what it reads: edges, depth, a pose; resized to the picture")
    strength: float = Field(1.0, ge=0, le=2, description="0 changes nothing")
    start: float = Field(0.0, ge=0, le=1, description="share of the steps after which it sets in")
    end: float = Field(1.0, ge=0, le=1, description="share of the steps after which it stops")
    unwanted: bool = Field(True, description="steer the branch of the negative prompt too")

    class Outputs(Ports):
        conditioning: Conditioning

    def run(self, ctx: Context) -> Outputs:
        if self.end <= self.start:
            raise ValueError(f"a ControlNet must end ({self.end}) after it starts ({self.start}).")
        width, wanted = self.conditioning.features.shape[-1], self.control_net.width
        if wanted and width != wanted:
            raise ValueError(
                f"the ControlNet {self.control_net.checkpoint} reads text features of width {wanted}, and the prompt "
                f"has {width}: it was made for another model."
            )
        if not self.strength:
            return self.Outputs(conditioning=self.conditioning)
        control = Control(self.control_net, self.image, self.strength, self.start, self.end, self.unwanted)
        return self.Outputs(conditioning=replace(self.conditioning, controls=(*self.conditioning.controls, control)))
