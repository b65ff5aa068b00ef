"""Rectified flow: x = (1 - sigma) x0 + sigma eps, and a network that predicts the velocity eps - x0.

(Liu et al. 2023; Esser et al. 2024.)  sigma runs from 1, pure noise, to 0.  A sampler that solves the probability flow in
x and sigma has the same formulas here as in the variance-exploding space, because (x - x0) / sigma is the velocity; one
that adds noise or works in log sigma is run in the coordinates of `exploding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

TRAIN_TIMESTEPS = 1000
NEAR_ONE = 1 - 5e-4
"""Where the variance-exploding coordinates begin: at sigma 1 they would be infinite."""
PROBABILITY_FLOW = frozenset({"euler", "ddim", "heun", "lms"})
"""Samplers that are right in x and sigma as they stand."""

Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FlowSchedule:
    """The noise levels of a flow model.

    `shift` pushes them towards noise (Esser et al. 2024, eq. 23): s -> shift s / (1 + (shift - 1) s).  `top` is the
    level that sampling starts from.
    """

    shift: float = 1.0
    top: float = 1.0

    @classmethod
    def exponential(cls, mu: float) -> FlowSchedule:
        """The shift e^mu, as models have it that make mu of the number of tokens."""
        return cls(math.exp(mu))

    def shifted(self, levels: Tensor) -> Tensor:
        return self.shift * levels / (1 + (self.shift - 1) * levels)

    @cached_property
    def sigmas(self) -> Tensor:
        """Levels of the trained timesteps, float64 `[1000]`, rising."""
        return self.shifted(torch.arange(1, TRAIN_TIMESTEPS + 1, dtype=torch.float64) / TRAIN_TIMESTEPS)

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def sigma_at(self, timestep: Tensor) -> Tensor:
        """The level at (fractional) places 0..999 of a line from the lowest trained level to 1.

        The line is drawn between levels that are shifted already and is shifted once more, as the field does.
        """
        share = timestep.double() / (TRAIN_TIMESTEPS - 1)
        return self.shifted(self.sigma_min + share * (self.sigma_max - self.sigma_min))

    def trailing(self, steps: int) -> Tensor:
        """Equal steps from the top, shifted: float64 `[steps]`, falling."""
        return self.shifted(self.top * (1 - torch.arange(steps, dtype=torch.float64) / steps))

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        """x of pure noise at the first level."""
        return noise

    def noised(self, clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """x = (1 - sigma) x0 + sigma eps."""
        return clean * (1 - sigma) + noise * sigma


def exploding(denoise: Denoise) -> Denoise:
    """A flow model in variance-exploding coordinates: y = x / (1 - sigma), tau = sigma / (1 - sigma)."""

    def call(y: Tensor, tau: Tensor) -> Tensor:
        return denoise(y / (1 + tau), tau / (1 + tau))

    return call


def exploding_sigmas(sigmas: Tensor) -> Tensor:
    """Levels of a flow in variance-exploding coordinates; the last stays 0."""
    levels = sigmas.clamp(max=NEAR_ONE)
    return levels / (1 - levels)


def denoised_from_velocity(velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """The clean estimate x - sigma v."""
    return x - sigma * velocity
