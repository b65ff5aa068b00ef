"""AutoencoderKL between pixels in 0..1 and scaled latents: the autoencoder of most families."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from graphengine.errors import CheckpointError
from graphengine.models.network import diffusers_network
from graphengine.models.source import Source


class KLAutoencoder:
    """Encodes to the mean of the posterior, so that the same picture always gives the same latent."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        config = source.config("vae")
        self.network = diffusers_network(
            AutoencoderKL, config, source.tensors("vae", dtype), f"{source.name}/vae", device
        )
        self._device, self._dtype = device, dtype
        self._scale = float(config.get("scaling_factor") or 0.18215)
        self._shift = float(config.get("shift_factor") or 0.0)
        if not (math.isfinite(self._scale) and math.isfinite(self._shift)):
            raise CheckpointError(f"{source.name}/vae scales its latents by {self._scale}, {self._shift}: no numbers.")

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        moments = self.network.encode(to_signal(pixels).to(self._device, self._dtype)).latent_dist
        return ((moments.mode().float() - self._shift) * self._scale).cpu()

    @torch.no_grad()
    def decode(self, samples: Tensor) -> np.ndarray:
        latents = samples.to(self._device) / self._scale + self._shift
        return to_pixels(self.network.decode(latents.to(self._dtype), return_dict=False)[0])


def to_signal(pixels: np.ndarray) -> Tensor:
    """Pixels `[B, H, W, 3]` in 0..1 as networks take them: `[B, 3, H, W]` in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) * 2 - 1)


def to_pixels(signal: Tensor) -> np.ndarray:
    """A network's output `[B, 3, H, W]` in -1..1 as pixels float32 `[B, H, W, 3]` in 0..1."""
    pixels = (signal.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()
    return np.ascontiguousarray(pixels.numpy())
