"""Faithfulness to the prompt: measuring it, and choosing by it.

`CheckPrompt` reads pictures of coloured shapes with the project's own checker, which never sees the prompt; it speaks
the language of the embedded model and no other.
"""

from __future__ import annotations

import numpy as np

from graphengine import Conditioning, Context, Field, Image, Node, Ports


class CheckPrompt(Node, category="measure"):
    """Read pictures blindly, and compare what they show with what was asked: background, colour, shape, place, size."""

    image: Image
    prompts: list[str] = Field(description="one for each picture of the batch, or one for all")

    class Outputs(Ports):
        scores: list[float]
        score: float
        accuracy: float
        told: list[str]

    def run(self, ctx: Context) -> Outputs:
        from graphengine.training.checker import facts, read
        from graphengine.training.parse import parse

        width, height = self.image.size
        if width != height:
            raise ValueError(f"the checker reads square pictures, this one is {width} x {height}.")
        prompts = self.prompts * len(self.image) if len(self.prompts) == 1 else self.prompts
        if len(prompts) != len(self.image):
            raise ValueError(f"there are {len(prompts)} prompts for {len(self.image)} pictures.")
        levels = (self.image.pixels[..., :3] * 255).round().astype(np.uint8)
        scores, told, right = [], [], 0
        for done, (prompt, picture) in enumerate(zip(prompts, levels, strict=True), 1):
            held = facts(parse(prompt), read(picture))
            right += held.pop("all")
            scores.append(sum(held.values()) / len(held))
            told.append(", ".join(f"{fact} {'right' if holds else 'wrong'}" for fact, holds in held.items()))
            ctx.progress(done, len(prompts))
        mean, accuracy = float(np.mean(scores)), right / len(prompts)
        return self.Outputs(scores=scores, score=mean, accuracy=accuracy, told=told)


class BestOf(Node, category="measure"):
    """The picture of a batch with the greatest score; the first of several."""

    image: Image
    scores: list[float] = Field(description="one for each picture of the batch")

    class Outputs(Ports):
        image: Image
        score: float
        index: int

    def run(self, ctx: Context) -> Outputs:
        if len(self.scores) != len(self.image):
            raise ValueError(f"there are {len(self.scores)} scores for {len(self.image)} pictures.")
        best = int(np.argmax(self.scores))
        return self.Outputs(image=Image(self.image.pixels[best : best + 1]), score=self.scores[best], index=best)


class BatchPrompts(Node, category="conditioning"):
    """Several prompts as one batch: picture i of the latent's batch follows prompt i."""

    prompts: list[Conditioning]

    class Outputs(Ports):
        conditioning: Conditioning

    def run(self, ctx: Context) -> Outputs:
        import torch

        first = self.prompts[0] if self.prompts else None
        if first is None:
            raise ValueError("there are no prompts.")
        for prompt in self.prompts:
            if prompt.encoder != first.encoder:
                raise ValueError("the prompts were encoded by different models.")
            if prompt.features.shape[1:] != first.features.shape[1:] or prompt.extras.keys() != first.extras.keys():
                raise ValueError("the prompts have features of different lengths; this family draws one at a time.")
            if prompt.controls:
                raise ValueError("a prompt is steered by a picture; put ApplyControlNet after the batch.")
        extras = {name: torch.cat([prompt.extras[name] for prompt in self.prompts]) for name in first.extras}
        features = torch.cat([prompt.features for prompt in self.prompts])
        text = " | ".join(prompt.text for prompt in self.prompts)
        return self.Outputs(conditioning=Conditioning(features, first.encoder, text, extras))
