"""How well pictures go with prompts, by a CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import Context, Field, Image, Node, Ports, Settings
from graphengine.guiding import Clip
from graphengine.models import clip_score


class LoadCLIP(Node, category="model", lane="io"):
    """Find a whole CLIP, with its text encoder and its vision model, to score pictures with."""

    clip: str = Field(
        description="folder in transformers' layout (a CLIPModel) in `clip_vision` of a model folder",
        json_schema_extra={"models": ["clip"]},
    )

    class Outputs(Ports):
        clip: Clip

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return {"digest": clip_score.find(inputs["clip"], settings).digest}

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(clip=clip_score.find(self.clip, ctx.settings).handle())


class CLIPScore(Node, category="measure", lane="gpu"):
    """Score pictures by how well they go with their prompts (Hessel et al. 2021): 0 to 100, about 30 when they do."""

    clip: Clip
    image: Image
    prompts: list[str] = Field(description="one for each picture of the batch, or one for all")

    class Outputs(Ports):
        scores: list[float]
        score: float

    def run(self, ctx: Context) -> Outputs:
        prompts = self.prompts * len(self.image) if len(self.prompts) == 1 else self.prompts
        if len(prompts) != len(self.image):
            raise ValueError(f"there are {len(prompts)} prompts for {len(self.image)} pictures.")
        scorer, scores = clip_score.scorer(ctx.models, self.clip, ctx.settings), []
        for done, (prompt, picture) in enumerate(zip(prompts, self.image.pil(), strict=True), 1):
            scores += scorer.scores([prompt], [picture])
            ctx.progress(done, len(prompts))
        return self.Outputs(scores=scores, score=sum(scores) / len(scores))
