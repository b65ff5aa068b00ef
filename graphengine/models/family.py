"""What every family of models offers, whatever its networks look like.

A sampler knows one thing, `denoised = denoise(x, sigma)` in the variance-exploding space x = x0 + sigma * noise; nodes know
three, the classes below.  What a network predicts, how it counts time, what else it wants to be told: all of
that stays inside the family's adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from graphengine.diffusion.sigmas import NoiseSchedule
    from graphengine.values import Conditioning


class DenoiserAdapter(Protocol):
    """A loaded denoiser."""

    schedule: NoiseSchedule
    device: str

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Tensor) -> Tensor:
        """Estimate of the clean latents.

        Args:
            x: noisy latents float32 `[B, C, h, w]`, variance-exploding.
            sigma: 0-dim, the noise level of the whole batch.
            prompts: features `[B, N, D]`.
        """
        ...


class TextAdapter(Protocol):
    """A loaded text encoder."""

    def encode(self, text: str) -> tuple[Tensor, list[str]]:
        """Features `[1, N, D]` on the CPU, and the words that did not fit."""
        ...


class VAEAdapter(Protocol):
    """A loaded autoencoder."""

    def encode(self, pixels: np.ndarray) -> Tensor:
        """Scaled latents `[B, C, h, w]` on the CPU (the mean, not a draw) of pixels `[B, H, W, 3]` in 0..1."""
        ...

    def decode(self, samples: Tensor) -> np.ndarray:
        """Pixels float32 `[B, H, W, 3]` in 0..1 of scaled latents."""
        ...


@dataclass(frozen=True)
class Loaded:
    """The three parts of a checkpoint, loaded."""

    denoiser: DenoiserAdapter
    text: TextAdapter
    vae: VAEAdapter


def features(conditioning: Conditioning, batch: int) -> Tensor:
    """A prompt's features for a batch: `[B, N, D]`, one prompt for all or one for each.

    Raises:
        ValueError: the numbers do not go together.
    """
    given = conditioning.features
    if given.shape[0] == batch:
        return given
    if given.shape[0] != 1:
        raise ValueError(f"{given.shape[0]} prompts cannot be shared out over {batch} pictures.")
    return given.expand(batch, -1, -1)
