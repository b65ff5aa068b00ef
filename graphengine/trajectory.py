"""The way of a latent from data to noise: what an inversion finds, and what sampling can go back along.

Beside it, a prompt that differs from one noise level to the next: what keeps guided sampling on that way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphengine.values import Latent, LatentSpace, Value

if TYPE_CHECKING:
    from torch import Tensor

SAME = 1e-3
"""Relative difference of two noise levels that are meant to be the same."""


@dataclass(frozen=True, eq=False)
class Trajectory(Value):
    """What a latent is at every noise level of a run: `samples` float32 `[n + 1, B, C, h, w]` at n + 1 `sigmas`.

    The levels rise from 0, where it is the clean latent, and are those of the family's sampling space: variance-exploding,
    or on the straight line of a flow.
    """

    samples: Tensor
    sigmas: tuple[float, ...]
    space: LatentSpace

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(self.sigmas))  # the disk cache gives lists
        if self.samples.ndim != 5 or len(self.samples) != len(self.sigmas):
            raise ValueError(f"Trajectory wants [{len(self.sigmas)}, B, C, h, w], got {[*self.samples.shape]}")

    def at(self, sigma: float) -> Tensor:
        """The latent at a level, `[B, C, h, w]`.  Raises ValueError when the trajectory has no such level."""
        place = _place(self.sigmas, sigma)
        if place is None:
            raise ValueError(
                f"sampling comes by noise level {sigma:.4g}, which the inversion did not come by on its way to "
                f"{self.sigmas[-1]:.4g}. Give the sampler the steps and the schedule of the inversion, denoise 1, and a "
                f"start of no less than 1 - share."
            )
        return self.samples[place]

    def check(self, latent: Latent) -> None:
        """Refuse a latent that this cannot be the way of.  Raises ValueError."""
        if self.space != latent.space:
            raise ValueError("the latent belongs to another model than the inversion.")
        if self.samples.shape[1:] != latent.samples.shape:
            raise ValueError(
                f"the inversion is one of latents {[*self.samples.shape[1:]]}, but the latent is "
                f"{[*latent.samples.shape]}. Link the latent that was inverted."
            )

    def row(self, index: int) -> Trajectory:
        """One picture's part of a batch."""
        return Trajectory(self.samples[:, index : index + 1], self.sigmas, self.space)


@dataclass(frozen=True, eq=False)
class LevelFeatures(Value):
    """Features of a prompt at every noise level that a run comes by: float32 `[n, B or 1, N, D]` at n `sigmas`."""

    features: Tensor
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(self.sigmas))  # the disk cache gives lists
        if self.features.ndim != 4 or len(self.features) != len(self.sigmas):
            raise ValueError(f"LevelFeatures wants [{len(self.sigmas)}, B, N, D], got {[*self.features.shape]}")

    def at(self, sigma: float) -> Tensor:
        """The features at a level, `[B or 1, N, D]`.  Raises ValueError when there are none for it."""
        place = _place(self.sigmas, sigma)
        if place is None:
            raise ValueError(
                f"sampling comes by noise level {sigma:.4g}, for which NullText has fitted no prompt. Give the sampler the "
                f"steps and the schedule of the inversion, and denoise 1."
            )
        return self.features[place]


def _place(sigmas: tuple[float, ...], sigma: float) -> int | None:
    """Where a level stands among others; None when it is not one of them."""
    nearest = min(range(len(sigmas)), key=lambda index: abs(sigmas[index] - sigma))
    return nearest if abs(sigmas[nearest] - sigma) <= SAME * sigma else None
