"""Repainting only what a mask says, by keeping the known latent everywhere else."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


def masked_denoise(denoise: Denoise, mask: Tensor, latent: Tensor, known: Callable[[Tensor], Tensor]) -> Denoise:
    """Wrap a denoiser so that the latent outside the mask stays what it is (Lugmayr et al. 2022, eq. 8).

    At every step the input outside the mask is the known latent at the right noise level, and the estimate there is the
    latent itself.  Pixels outside still move a little when a decoder looks far, so paste them back afterwards.

    Args:
        mask: `[B or 1, 1, h, w]` in 0..1, 1 to repaint.
        latent: the clean latent `[B, C, h, w]`.
        known: the latent with the noise that the run started from, at a noise level; same shape.
    """

    def call(x: Tensor, sigma: Tensor) -> Tensor:
        estimate = denoise(x * mask + known(sigma) * (1 - mask), sigma)
        return estimate * mask + latent * (1 - mask)

    return call
