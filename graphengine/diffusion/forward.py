"""The forward process: from data to noise in one jump, and what a network may predict of it."""

from __future__ import annotations

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """x = x0 + sigma * eps: the variance-exploding forward process (Karras et al. 2022)."""
    return clean + noise * sigma


def add_noise_vp(clean: Tensor, noise: Tensor, alpha_cumprod: Tensor) -> Tensor:
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) eps (Ho et al. 2020, eq. 4); abar broadcasts against the batch."""
    return alpha_cumprod.sqrt() * clean + (1 - alpha_cumprod).sqrt() * noise


def velocity(clean: Tensor, noise: Tensor, alpha_cumprod: Tensor) -> Tensor:
    """v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans & Ho 2022, section 4)."""
    return alpha_cumprod.sqrt() * noise - (1 - alpha_cumprod).sqrt() * clean


def snr(alphas_cumprod: Tensor) -> Tensor:
    """Signal to noise ratio abar / (1 - abar)."""
    return alphas_cumprod / (1 - alphas_cumprod)


def scale_input(x: Tensor, sigma: Tensor) -> Tensor:
    """From the variance-exploding space to the variance-preserving one that a network was trained in."""
    return x / (1 + sigma**2).sqrt()


def denoised_from(output: Tensor, prediction: str, x: Tensor, sigma: Tensor) -> Tensor:
    """The clean estimate that a network's output stands for, given x in the variance-exploding space.

    Raises:
        ValueError: `prediction` is none of epsilon, v_prediction, sample.
    """
    match prediction:
        case "epsilon":
            return x - sigma * output
        case "v_prediction":
            square = sigma**2 + 1
            return x / square - output * sigma / square.sqrt()
        case "sample":
            return output
        case _:
            raise ValueError(f"a network predicts one of {', '.join(PREDICTIONS)}, not {prediction!r}.")


def alpha_cumprod_at(sigma: Tensor) -> Tensor:
    """abar of a noise level: 1 / (1 + sigma^2)."""
    return torch.reciprocal(1 + sigma**2)
