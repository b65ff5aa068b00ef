"""What a latent looks like, roughly and at once: every latent cell becomes one pixel by a linear map to colours.

The map is not a table of known models: it is fitted to the autoencoder at hand, by least squares from latents of noise
to the mean colours of the cells that it decodes them to.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphengine.models.family import VAEAdapter
from graphengine.values import Image

CELLS, PICTURES = 8, 4
_maps: weakref.WeakKeyDictionary[Any, np.ndarray] = weakref.WeakKeyDictionary()


def latent_picture(vae: VAEAdapter, samples: Tensor) -> Image:
    """Scaled latents `[B, C, h, w]` as a picture of one pixel for each cell, `[B, h, w, 3]` in 0..1."""
    if vae not in _maps:
        _maps[vae] = colour_map(vae, samples.shape[1])
    cells = samples.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    pixels = _with_one(cells) @ _maps[vae]
    return Image(pixels.clip(0, 1).astype(np.float32))


@torch.no_grad()
def colour_map(vae: VAEAdapter, channels: int) -> np.ndarray:
    """Matrix `[C + 1, 3]` from a latent cell (and a one) to its colour."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(PICTURES, channels, CELLS, CELLS, generator=generator)
    pixels = vae.decode(latents)
    factor = pixels.shape[1] // CELLS
    means = pixels.reshape(PICTURES, CELLS, factor, CELLS, factor, 3).mean(axis=(2, 4))
    cells = _with_one(latents.permute(0, 2, 3, 1).numpy())
    return np.linalg.lstsq(cells.reshape(-1, channels + 1), means.reshape(-1, 3), rcond=None)[0]


def _with_one(cells: np.ndarray) -> np.ndarray:
    return np.concatenate([cells, np.ones_like(cells[..., :1])], axis=-1)
