"""What becomes of a prompt: words, tokens, numbers, and how near two prompts are to each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphengine import Conditioning, Context, Field, Image, Node, Ports, TextEncoder

from .conditioning import note_words


class Tokenize(Node, category="conditioning", lane="gpu"):
    """The tokens of a prompt, with their ids, as each tokenizer of the encoder cuts it, and the words that are not read."""

    encoder: TextEncoder
    text: str = Field("", max_length=20_000, description="the prompt")

    class Outputs(Ports):
        table: str
        ids: list[int]
        tokens: list[str]
        count: int
        limit: int
        cut: list[str]

    def run(self, ctx: Context) -> Outputs:
        adapter = ctx.models.text_encoder(self.encoder)
        parts = list(_parts(adapter))
        if not parts:
            raise ValueError(f"the text encoder of {self.encoder.checkpoint} shows no tokens.")
        read = [part.read(self.text) for part in parts]
        limit = min(getattr(part, "limit", 0) for part in parts)
        encoded = adapter.encode(self.text)
        note_words(ctx, self.encoder, encoded)
        return self.Outputs(
            table="\n\n".join(_table(tokens, limit) for tokens in read),
            ids=[number for number, _ in read[0]],
            tokens=[token for _, token in read[0]],
            count=len(read[0]),
            limit=limit,
            cut=list(encoded.cut),
        )


def _parts(adapter: Any) -> Iterator[Any]:
    """The encoders within an adapter that have a tokenizer."""
    for value in vars(adapter).values():
        for part in value if isinstance(value, list) else [value]:
            if hasattr(part, "read"):
                yield part


def _table(tokens: list[tuple[int, str]], limit: int) -> str:
    """Markdown; the token after the last that is read is marked."""
    rows = ["| place | id | token | |", "|---:|---:|---|---|"]
    for place, (number, token) in enumerate(tokens):
        beyond = bool(limit) and place >= limit - 1 and len(tokens) > limit and place < len(tokens) - 1
        shown = token.replace("|", "\\|")
        rows.append(f"| {place} | {number} | {shown} | {'cut' if beyond else ''} |")
    return "\n".join(rows)


class ComparePrompts(Node, category="conditioning"):
    """How alike prompts are to a denoiser: the cosine between their features, token by token, each pair of them."""

    prompts: list[Conditioning]
    labels: list[str] = Field([], description="one for each prompt; none takes their texts")

    class Outputs(Ports):
        image: Image
        similarities: list[float]

    def run(self, ctx: Context) -> Outputs:
        from graphengine import plot

        if len(self.prompts) < 2:
            raise ValueError(f"there is {len(self.prompts)} prompt; a comparison wants two or more.")
        labels = self.labels or [prompt.text[:40] or "(empty)" for prompt in self.prompts]
        if len(labels) != len(self.prompts):
            raise ValueError(f"there are {len(labels)} labels for {len(self.prompts)} prompts.")
        if len({(prompt.encoder, tuple(prompt.features.shape)) for prompt in self.prompts}) > 1:
            raise ValueError("the prompts were encoded by different models, or have different lengths.")
        rows = np.stack([prompt.features[0].float().numpy().ravel() for prompt in self.prompts])
        rows = rows - rows.mean(0)  # what all prompts share says nothing
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        alike = rows @ rows.T
        side = 160 + 90 * len(labels)
        image = plot.matrix(alike, labels, plot.Axes("similarity of prompts", width=side + 160, height=side))
        return self.Outputs(image=image, similarities=[float(value) for value in alike.ravel()])
