"""Noise schedules, and where on them a sampler steps.

Everything is counted in the variance-exploding space x = x0 + sigma * eps (Karras et al. 2022), in which
sigma = sqrt((1 - abar) / abar) for a network trained in the variance-preserving one.  A *noise schedule* is what a
network was trained on; a *sigma schedule* is the row of noise levels that one sampling run walks down, ending in 0.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule

RHO = 7.0
BETA_ALPHA = BETA_BETA = 0.6


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise levels a network was trained on.  `alphas_cumprod` is abar, float64 `[T]`, falling."""

    alphas_cumprod: Tensor

    @classmethod
    def from_betas(cls, betas: Tensor) -> NoiseSchedule:
        """abar_t = prod(1 - beta) (Ho et al. 2020, eq. 4); betas `[T]` in 0..1."""
        return cls((1 - betas.double()).cumprod(0))

    @classmethod
    def linear(cls, start: float = 1e-4, end: float = 0.02, steps: int = 1000) -> NoiseSchedule:
        """Betas in equal steps (Ho et al. 2020, section 4)."""
        return cls.from_betas(torch.linspace(start, end, steps, dtype=torch.float32))

    @classmethod
    def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> NoiseSchedule:
        """Square roots of the betas in equal steps (Rombach et al. 2022)."""
        return cls.from_betas(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2)

    @classmethod
    def cosine(cls, steps: int = 1000) -> NoiseSchedule:
        """abar follows a squared cosine (Nichol & Dhariwal 2021, eq. 17), betas at most 0.999."""

        def level(share: float) -> float:
            return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - level((i + 1) / steps) / level(i / steps), 0.999) for i in range(steps)]
        return cls.from_betas(torch.tensor(betas, dtype=torch.float32))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read a diffusers `scheduler_config.json`.  Raises ValueError for a schedule that is not known."""
        steps = int(config.get("num_train_timesteps", 1000))
        if config.get("trained_betas") is not None:
            return cls.from_betas(torch.tensor(config["trained_betas"], dtype=torch.float32))
        start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
        match config.get("beta_schedule", "linear"):
            case "linear":
                return cls.linear(start, end, steps)
            case "scaled_linear":
                return cls.scaled_linear(start, end, steps)
            case "squaredcos_cap_v2":
                return cls.cosine(steps)
            case other:
                known = "linear, scaled_linear and squaredcos_cap_v2"
                raise ValueError(f"the beta schedule {other!r} is not known; {known} are.")

    @cached_property
    def sigmas(self) -> Tensor:
        """sqrt((1 - abar) / abar), float64 `[T]`, rising."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    @cached_property
    def log_sigmas(self) -> Tensor:
        return self.sigmas.log()

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def trailing(self, steps: int) -> Tensor:
        """Every T/steps-th trained level, counted from the noisiest: float64 `[steps]`, falling."""
        total = len(self.sigmas)
        return self.sigmas[[total - 1 - int(index * total / steps) for index in range(steps)]]

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        """x of pure noise at the first level: of unit variance in the variance-preserving space, as diffusers starts."""
        return noise * (1 + sigma**2) ** 0.5

    def noised(self, clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """x = x0 + sigma eps."""
        return clean + noise * sigma

    def sigma_at(self, timestep: Tensor) -> Tensor:
        """The noise level at (fractional) timesteps in 0..T-1, interpolated in log sigma; float64."""
        t = timestep.double().clamp(0, len(self.sigmas) - 1)
        low = t.floor().long().clamp(max=len(self.sigmas) - 2)
        share = t - low
        logs = self.log_sigmas
        return ((1 - share) * logs[low] + share * logs[low + 1]).exp()

    def timestep_at(self, sigma: Tensor) -> Tensor:
        """The (fractional) timestep of noise levels, the inverse of `sigma_at`; float64, clamped to 0..T-1."""
        level = sigma.double().cpu().clamp(min=1e-12).log()
        logs = self.log_sigmas
        low = (torch.searchsorted(logs, level, right=True) - 1).clamp(0, len(logs) - 2)
        share = ((level - logs[low]) / (logs[low + 1] - logs[low])).clamp(0, 1)
        return low + share


Schedule = NoiseSchedule | FlowSchedule
"""What sigma schedules and the sampling loop ask their levels of."""


def normal(schedule: Schedule, steps: int) -> Tensor:
    """Timesteps in equal steps from the last to the first, both included ("linspace" in diffusers)."""
    return _ended(schedule.sigma_at(torch.linspace(len(schedule.sigmas) - 1, 0, steps, dtype=torch.float64)))


def sgm_uniform(schedule: Schedule, steps: int) -> Tensor:
    """Like `normal` with one step more, whose last level is left out, so that the final jump is larger."""
    last = len(schedule.sigmas) - 1
    return _ended(schedule.sigma_at(torch.linspace(last, 0, steps + 1, dtype=torch.float64)[:-1]))


def simple(schedule: Schedule, steps: int) -> Tensor:
    """Every T/steps-th trained level, counted from the noisiest ("trailing" in diffusers)."""
    return _ended(schedule.trailing(steps))


def ddim_uniform(schedule: Schedule, steps: int) -> Tensor:
    """Every (T // steps)-th level from timestep 1 ("leading" with offset 1 in diffusers)."""
    stride = max(len(schedule.sigmas) // steps, 1)
    rows = [min(index * stride + 1, len(schedule.sigmas) - 1) for index in range(steps)]
    return _ended(schedule.sigmas[rows[::-1]])


def karras(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps in sigma^(1/7) (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = schedule.sigma_min ** (1 / RHO), schedule.sigma_max ** (1 / RHO)
    return _ended((high + ramp * (low - high)) ** RHO)


def exponential(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps in log sigma."""
    high, low = math.log(schedule.sigma_max), math.log(schedule.sigma_min)
    return _ended(torch.linspace(high, low, steps, dtype=torch.float64).exp())


def beta(schedule: Schedule, steps: int) -> Tensor:
    """Timesteps at quantiles of the beta distribution (0.6, 0.6): dense at both ends (Lee et al. 2024).

    The quantiles are taken over timesteps; diffusers' `use_beta_sigmas` takes them over sigma, which is another schedule.
    """
    from scipy.special import betaincinv

    shares = 1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:-1]
    quantiles = torch.from_numpy(betaincinv(BETA_ALPHA, BETA_BETA, shares.numpy()))
    rows = (quantiles * (len(schedule.sigmas) - 1)).round().long()
    return _ended(schedule.sigmas[rows.unique().flip(0)])


SCHEDULES: dict[str, Callable[[Schedule, int], Tensor]] = {
    "normal": normal,
    "karras": karras,
    "exponential": exponential,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "sgm_uniform": sgm_uniform,
    "beta": beta,
}


def sigma_schedule(name: str, schedule: Schedule, steps: int, denoise: float = 1.0) -> Tensor:
    """The noise levels of one run: float32 `[steps + 1]`, falling, the last 0.

    With a strength `denoise` below 1 the schedule is made for `int(steps / denoise)` steps, of which the last
    `steps` are kept, so the number of network calls stays the same.  `denoise` 0 gives `[0]`: no step.
    `beta` drops levels that fall together and may be shorter.

    Raises:
        ValueError: an unknown name, fewer than one step, or a strength outside 0..1.
    """
    if name not in SCHEDULES:
        near = difflib.get_close_matches(name, SCHEDULES, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There is {', '.join(SCHEDULES)}."
        raise ValueError(f"there is no schedule {name!r}. {hint}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if not 0 <= denoise <= 1:
        raise ValueError(f"denoise must lie in 0..1, got {denoise}.")
    if denoise == 0:
        return torch.zeros(1)
    total = int(steps / denoise)
    longest = len(schedule.sigmas) if name in ("simple", "ddim_uniform") else total
    made = SCHEDULES[name](schedule, min(total, longest))
    return made[-(min(steps, len(made) - 1) + 1) :].float()


def _ended(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])
