"""Pictures through an autoencoder at once, one by one, or in tiles: as much at a time as there is memory for.

What it would take is estimated first.  Other models leave before anything is done in pieces; one by one gives the same
pixels, tiles nearly the same, so they come last.  Whatever is done otherwise than asked is noted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphengine.models import activations
from graphengine.models.estimate import Part, Size
from graphengine.values import VAE, Patch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

IN_PIECES = 2
"""How frugal a node is that works picture by picture and tile by tile; see `Context.frugal`."""
TILES = Patch("tiled", "in tiles")
AT_MOST = 32 * 2**10
"""Bytes for a pixel that no autoencoder needs: where so much is free nothing has to be estimated."""
MIB = 2**20


@dataclass(frozen=True)
class Way:
    """How pictures go through: all at once, or one by one, and then perhaps in tiles."""

    singly: bool = False
    tiled: bool = False


def decode(ctx: Any, vae: VAE, samples: Tensor) -> np.ndarray:
    """Pixels `[B, H, W, 3]` of scaled latents `[B, C, h, w]`, by way of a node's context."""
    factor = vae.space.factor if vae.space else 8
    batch, _, high, wide = samples.shape
    way = _way(ctx, vae, Size(batch, wide * factor, high * factor), encodes=False)
    adapter = ctx.models.vae(vae.patched(TILES) if way.tiled else vae)
    if not way.singly:
        return adapter.decode(samples)
    import numpy as np

    return np.concatenate([adapter.decode(samples[row : row + 1]) for row in range(batch)])


def encode(ctx: Any, vae: VAE, pixels: np.ndarray) -> Tensor:
    """Scaled latents `[B, C, h, w]` of pixels `[B, H, W, 3]`, by way of a node's context."""
    batch, high, wide, _ = pixels.shape
    way = _way(ctx, vae, Size(batch, wide, high), encodes=True)
    adapter = ctx.models.vae(vae.patched(TILES) if way.tiled else vae)
    if not way.singly:
        return adapter.encode(pixels)
    import torch

    return torch.cat([adapter.encode(pixels[row : row + 1]) for row in range(batch)])


def _way(ctx: Any, vae: VAE, size: Size, encodes: bool) -> Way:
    if ctx.frugal >= IN_PIECES:
        return Way(singly=True, tiled=True)
    set_limit = ctx.settings.autoencoder_limit
    limit = set_limit or ctx.models.free
    if limit is None or (not set_limit and limit > AT_MOST * size.batch * size.width * size.height):
        return Way()
    part = Part(replace(vae, patches=()), ctx.settings)
    whole, single = part.coding(size, encodes), part.coding(size.picture, encodes)
    if not set_limit and whole > limit and ctx.models.release_others(vae):
        ctx.note(f"all other models are let go of: the pictures take about {whole // MIB:,} MiB of memory.")
        limit = ctx.models.free or limit
    if whole <= limit:
        return Way()
    told = f"about {whole // MIB:,} MiB at once, where {limit // MIB:,} are {'allowed' if set_limit else 'free'}"
    side = activations.tile(part.configs[0])
    if single <= limit or max(size.width, size.height) <= side:
        if size.batch > 1:
            ctx.note(f"the pictures go through the autoencoder one by one: {told}.")
        return Way(singly=size.batch > 1)
    ctx.note(f"the autoencoder works in tiles of {side} pixels: {told}.")
    return Way(singly=True, tiled=True)
