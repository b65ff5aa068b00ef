"""A U-Net, level by level: what its levels hold while it draws, and how much worse it draws without skip connections."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphengine import Context, Denoiser, Field, Image, Node, Ports
from graphengine.planes import resize_planes
from graphengine.values import Patch

from .latent_space import CompareImages
from .sampling import Sampler

COLD, EVEN, WARM = np.array([[0.45, 0.75, 1.0], [0.06, 0.07, 0.1], [1.0, 0.6, 0.25]], np.float32)
"""Colours far below the mean of a map, at it, and far above."""
GAP = 2
"""Pixels between maps."""


class FeatureMaps(Sampler, category="sampling", lane="gpu"):
    """Like Sampler, and shows what each level of the U-Net holds at one step: the feature maps that vary the most.

    The picture is the one that Sampler draws.  Each map is warm above its mean, cold below and dark at it, by itself.
    """

    record_at: float = Field(0.5, ge=0, le=1, description="which step is shown: 0 is the first, 1 the last")
    channels: int = Field(16, ge=1, le=1024, description="maps of each level, at most")
    tile: int = Field(32, ge=1, le=512, description="width of a map in pixels")

    class Outputs(Sampler.Outputs):
        images: list[Image]
        labels: list[str]
        levels: list[int]

    def run(self, ctx: Context) -> Any:
        from graphengine.models.anatomy import FeatureRecorder

        batch, _, high, wide = self.latent.samples.shape
        size = (self.tile, max(1, round(self.tile * high / wide)))
        side = math.ceil(math.sqrt(self.channels))
        ctx.settings.check_pixels(side * (size[0] + GAP), side * (size[1] + GAP), batch)
        recorder = FeatureRecorder(self.record_at)
        latent = self.sampled(ctx, recorder=recorder)
        features = {place: maps.numpy() for place, maps in recorder.features().items()}
        labels = [f"{place}\n{it.shape[1]} channels, {it.shape[3]} x {it.shape[2]}" for place, it in features.items()]
        return self.Outputs(
            latent=latent,
            images=[_sheet(maps, self.channels, size) for maps in features.values()],
            labels=labels,
            levels=[*range(1, 1 + sum(place.startswith("up") for place in features))],
        )


class RemoveSkips(Node, category="model"):
    """Take the skip connections of one level away from a U-Net: zeros stand in their place.  Several add up."""

    denoiser: Denoiser
    level: int = Field(1, ge=1, le=16, description="1 has the latent's size, each further one is half as wide")

    class Outputs(Ports):
        denoiser: Denoiser

    def run(self, ctx: Context) -> Outputs:
        patch = Patch("unskipped", f"level {self.level}", (float(self.level),))
        return self.Outputs(denoiser=self.denoiser.patched(patch))


class CompareLevels(Node, category="measure"):
    """Pictures that were drawn without one level's skip connections each, beside the intact one, with their PSNR to it."""

    intact: Image
    others: list[Image] = Field(description="of the same size, without one level's skip connections each")
    levels: list[int] = Field(description="the level that each does without")

    class Outputs(Ports):
        images: list[Image]
        labels: list[str]
        psnr: list[float]

    def run(self, ctx: Context) -> Outputs:
        if len(self.levels) != len(self.others):
            raise ValueError(f"there are {len(self.levels)} levels for {len(self.others)} pictures.")
        psnr = [CompareImages(image=self.intact, other=other).run(ctx).psnr for other in self.others]
        told = [f"without level {level}: {ratio:.1f} dB" for level, ratio in zip(self.levels, psnr, strict=True)]
        return self.Outputs(images=[self.intact, *self.others], labels=["intact", *told], psnr=psnr)


def _sheet(features: np.ndarray, channels: int, size: tuple[int, int]) -> Image:
    """The maps of features `[B, C, h, w]` that vary the most over the plane, the strongest first, as one picture each."""
    strength = features.std(axis=(2, 3)).mean(axis=0)
    maps = features[:, np.argsort(-strength, kind="stable")[:channels]]
    maps = maps - maps.mean(axis=(2, 3), keepdims=True)
    maps = maps / np.maximum(np.abs(maps).max(axis=(2, 3), keepdims=True), 1e-12)
    method = "nearest" if maps.shape[3] <= size[0] else "bilinear"
    large = resize_planes(((maps + 1) / 2).transpose(0, 2, 3, 1).astype(np.float32), size, method) * 2 - 1
    side = math.ceil(math.sqrt(large.shape[3]))
    wide, high = size[0] + GAP, size[1] + GAP
    sheet = np.ones((len(large), -(-large.shape[3] // side) * high - GAP, side * wide - GAP, 3), np.float32)
    for number in range(large.shape[3]):
        top, left = number // side * high, number % side * wide
        sheet[:, top : top + size[1], left : left + size[0]] = _coloured(large[..., number])
    return Image(sheet)


def _coloured(plane: np.ndarray) -> np.ndarray:
    """Values in -1..1 as colours, `[..., 3]`."""
    value = plane[..., None]
    return np.where(value < 0, EVEN + (COLD - EVEN) * -value, EVEN + (WARM - EVEN) * value).clip(0, 1)
