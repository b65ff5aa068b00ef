"""Rectified flow: x = (1 - sigma) x0 + sigma eps, and a network that predicts the velocity eps - x0.

(Liu et al. 2023; Esser et al. 2024.)  sigma runs from 1, pure noise, to 0.  A sampler that solves the probability flow in
x and sigma has the same formulas here as in the variance-exploding space, because (x - x0) / sigma is the velocity; one
that adds noise or works in log sigma is run in the coordinates of `exploding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
    level that sampling starts from.  With `terminal` the levels of a run are stretched so that its last step begins there.
    """

    shift: float = 1.0
    top: float = 1.0
    terminal: float | None = None

    @classmethod
    def exponential(cls, mu: float) -> FlowSchedule:
        """The shift e^mu, as models have it that make mu of the number of tokens."""
        return cls(math.exp(mu))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokens: int = 0) -> FlowSchedule:
        """Read a diffusers `scheduler_config.json`; where it says so, the shift grows with the number of tokens."""
        terminal = config.get("shift_terminal")
        if not config.get("use_dynamic_shifting"):
            return cls(float(config.get("shift", 1.0)), terminal=terminal)
        fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        least, greatest = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = least + (tokens - fewest) * (greatest - least) / (most - fewest)
        linear = config.get("time_shift_type") == "linear"
        return cls(mu if linear else math.exp(mu), terminal=terminal)

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
        levels = self.shifted(self.top * (1 - torch.arange(steps, dtype=torch.float64) / steps))
        if not self.terminal or steps == 1:
            return levels
        return 1 - (1 - levels) * (1 - self.terminal) / (1 - levels[-1])

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
    """Levels of a flow in variance-exploding coordinates; a first level of 1 is lowered, the last stays 0."""
    levels = sigmas.clone()
    if levels[0] == 1:
        levels[0] = max(NEAR_ONE, float(1 + levels[1]) / 2)
    return levels / (1 - levels)


def denoised_from_velocity(velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """The clean estimate x - sigma v."""
    return x - sigma * velocity
