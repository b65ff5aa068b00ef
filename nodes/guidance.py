"""Ways of guiding beside the plain scale: each takes what Guidance gives, or a number, and adds one thing to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from graphengine import Conditioning, Context, Field, Node, Ports, TextEncoder
from graphengine.guiding import Excitation, OptimisedScale, Perturbation, Projection
from graphengine.values import Guider

Plain = Annotated[float, Field(ge=0, le=100)] | Guider


class PerturbedAttention(Node, category="conditioning"):
    """Push away from what the network says with disturbed self-attention: clearer shapes, also without a prompt.

    With `blur` 0 the layers' cells see themselves alone (Ahn et al. 2024); above, queries are blurred (Hong 2024).
    """

    guidance: Plain = Field(3.0, description="what it is added to: a scale, or a Guidance node")
    scale: float = Field(3.0, ge=0, le=100, description="how strongly it pushes; 0 changes nothing")
    layers: str = Field(
        "mid", max_length=1000, description="parts of layers' names, separated by commas: mid, up_blocks.1"
    )
    blur: float = Field(
        0.0, ge=0, le=10_000, description="of the queries, in cells; 10000 makes all of them their mean"
    )
    start: float = Field(0.0, ge=0, le=1, description="share of the steps after which it sets in")
    end: float = Field(1.0, ge=0, le=1, description="share of the steps after which it stops")

    class Outputs(Ports):
        guidance: Guider

    def run(self, ctx: Context) -> Outputs:
        if self.end <= self.start:
            raise ValueError(f"the push must end ({self.end}) after it starts ({self.start}).")
        if not any(part.strip() for part in self.layers.split(",")):
            raise ValueError("no layer is named; try mid, which every U-Net has.")
        guider = _guider(self.guidance)
        if self.scale:
            push = Perturbation(self.scale, self.layers, self.blur, self.start, self.end)
            guider = replace(guider, perturbation=push)
        return self.Outputs(guidance=guider)


class ProjectedGuidance(Node, category="conditioning"):
    """Guide at large scales without garish colours: what lies along the estimate is weakened (Sadat et al. 2024)."""

    guidance: Plain = Field(10.0, description="what is projected: a scale, or a Guidance node")
    parallel: float = Field(0.0, ge=0, le=1, description="how much of what lies along the estimate is kept; 1 is plain")
    longest: float = Field(
        0.0, ge=0, le=1000, description="length that no update exceeds, 5 to 15 for SD; 0 is without"
    )
    momentum: float = Field(0.0, ge=-1, le=1, description="share of the last update that goes on; -0.5 turns from it")

    class Outputs(Ports):
        guidance: Guider

    def run(self, ctx: Context) -> Outputs:
        rule = Projection(self.parallel, self.longest, self.momentum)
        return self.Outputs(guidance=replace(_guider(self.guidance), rule=rule))


class OptimisedGuidance(Node, category="conditioning"):
    """Guide away from the nearest multiple of the unwanted, not at all in the first steps (CFG-Zero*; Fan et al. 2025).

    Made for flow models, whose first steps are the least sure.
    """

    guidance: Plain = Field(3.0, description="what is optimised: a scale, or a Guidance node")
    zero_steps: int = Field(1, ge=0, le=100, description="first steps in which nothing moves")

    class Outputs(Ports):
        guidance: Guider

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(guidance=replace(_guider(self.guidance), rule=OptimisedScale(self.zero_steps)))


class AttendAndExcite(Node, category="conditioning", lane="gpu"):
    """Let no word be overlooked: the latent is moved until the network looks at each of them somewhere (Chefer et al. 2023).

    For prompts of several things, one of which goes missing: name that one.  Every round of a step costs a pass through the
    network and back.  Samplers that add no noise of their own (euler, heun, ddim, lms, dpmpp_2m, unipc) follow the paper.
    """

    encoder: TextEncoder = Field(description="that the prompt was encoded with")
    prompt: Conditioning = Field(description="the wanted prompt of the sampler")
    words: list[str] = Field(min_length=1, max_length=16, description="that are overlooked, as the prompt has them")
    guidance: Plain = Field(3.0, description="what it is added to: a scale, or a Guidance node")
    strength: float = Field(
        100.0, ge=0, le=100_000, description="length of a step along the gradient; 0 changes nothing"
    )
    rounds: int = Field(8, ge=1, le=100, description="steps along the gradient in each step of the sampler")
    end: float = Field(0.34, gt=0, le=1, description="share of the sampler's steps after which it stops")
    layers: str = Field(
        "mid", max_length=1000, description="parts of the layers' names, separated by commas; empty for all of them"
    )

    class Outputs(Ports):
        guidance: Guider

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.words import rows_of, words_of

        if self.prompt.encoder != self.encoder.kind:
            raise ValueError("the prompt was encoded by another text encoder than the one that is linked.")
        adapter, text = ctx.models.text_encoder(self.encoder), self.prompt.text
        words = tuple(rows_of(adapter, text, self.words))
        tokens = tuple(sorted({row for rows in rows_of(adapter, text, words_of(text)) for row in rows}))
        guider = _guider(self.guidance)
        if self.strength:
            excitation = Excitation(words, tokens, self.strength, self.rounds, self.end, self.layers, text)
            guider = replace(guider, excitation=excitation)
        return self.Outputs(guidance=guider)


def _guider(guidance: float | Guider) -> Guider:
    return guidance if isinstance(guidance, Guider) else Guider(guidance)
