"""Where a network looks for each word while it draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphengine import Context, Field, Image, TextEncoder
from graphengine.planes import resize_planes

from .sampling import Sampler


class AttentionMaps(Sampler, category="sampling", lane="gpu"):
    """Like Sampler, and shows where the network looked for each word: its cross-attention, over steps, layers and heads.

    The picture is the one that Sampler draws.  Hot is much, cold is little, each word by itself.
    """

    encoder: TextEncoder = Field(description="that the prompt was encoded with")
    words: list[str] = Field([], description="which to look for; none are all of the prompt's words")
    layers: str = Field("up", description="parts of the layers' names, separated by commas; empty for all")
    record_start: float = Field(0.0, ge=0, lt=1, description="share of the steps after which recording begins")
    record_end: float = Field(1.0, gt=0, le=1, description="share of the steps after which it ends")

    class Outputs(Sampler.Outputs):
        images: list[Image]
        words: list[str]

    def run(self, ctx: Context) -> Any:
        from graphengine.models.attention import AttentionRecorder, heat
        from graphengine.models.words import rows_of, words_of

        adapter = ctx.models.text_encoder(self.encoder)
        words = self.words or words_of(self.positive.text)
        rows = rows_of(adapter, self.positive.text, words)
        recorder = AttentionRecorder(self.layers, self.record_start, self.record_end)
        latent = self.sampled(ctx, recorder=recorder)
        maps, factor = recorder.maps(), latent.space.factor
        images = [_coloured(heat(maps, own).numpy(), factor) for own in rows]
        return self.Outputs(latent=latent, images=images, words=words)


def _coloured(heat: np.ndarray, factor: int) -> Image:
    """A map `[B, h, w]` as pictures, each from its least (blue) to its greatest value (red)."""
    low, high = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
    level = ((heat - low) / np.maximum(high - low, 1e-12)).astype(np.float32)
    size = (level.shape[2] * factor, level.shape[1] * factor)
    smooth = resize_planes(level[..., None], size, "bicubic")[..., 0].clip(0, 1)
    ramps = [np.clip(1.5 - np.abs(4 * smooth - peak), 0, 1) for peak in (3, 2, 1)]
    return Image(np.stack(ramps, -1).astype(np.float32))
