"""Guidance: how the estimates with and without the prompt become one.

All of it acts on denoised estimates, where classifier-free guidance has the same form as on noise estimates.  A guidance says for each
noise level whether it needs the second estimate at all, so that the network can be spared the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Guidance(Protocol):
    """Combines two denoised estimates `[B, C, h, w]` of one x at a noise level."""

    def needs_unconditional(self, sigma: float) -> bool:
        """Whether the estimate without the prompt is wanted at this noise level."""
        ...

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor: ...


@dataclass(frozen=True)
class Plain:
    """No guidance: the estimate with the prompt, as it is."""

    def needs_unconditional(self, sigma: float) -> bool:
        return False

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        return conditional


@dataclass(frozen=True)
class ClassifierFree:
    """u + scale * (c - u) (Ho & Salimans 2022, eq. 6, with scale = 1 + w)."""

    scale: float

    def needs_unconditional(self, sigma: float) -> bool:
        return self.scale != 1

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        return unconditional + self.scale * (conditional - unconditional)


@dataclass(frozen=True)
class Rescaled:
    """Classifier-free guidance whose standard deviation is brought back to that of the conditional estimate.

    `rescale` 0 is off, 1 is full (Lin et al. 2023, eq. 15-16).
    """

    scale: float
    rescale: float

    def needs_unconditional(self, sigma: float) -> bool:
        return self.scale != 1

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        guided = unconditional + self.scale * (conditional - unconditional)
        axes = tuple(range(1, guided.ndim))
        spread = guided.std(axes, keepdim=True).clamp(min=1e-8)
        matched = guided * (conditional.std(axes, keepdim=True) / spread)
        return guided + self.rescale * (matched - guided)


@dataclass(frozen=True)
class NormKept:
    """Classifier-free guidance on the velocity (or noise), brought back to the length of the conditional one.

    Lengths are taken along what `axes` names, by default the channels, and there over `patch` x `patch` cells together.
    """

    scale: float
    axes: tuple[int, ...] = (1,)
    patch: int = 1

    def needs_unconditional(self, sigma: float) -> bool:
        return self.scale != 1

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        wanted, unwanted = (x - conditional) / sigma, (x - unconditional) / sigma
        guided = unwanted + self.scale * (wanted - unwanted)
        return x - sigma * guided * (self._length(wanted) / self._length(guided).clamp(min=1e-12))

    def _length(self, velocity: Tensor) -> Tensor:
        lengths = velocity.norm(dim=self.axes, keepdim=True)
        if self.patch == 1:
            return lengths
        means = torch.nn.functional.avg_pool2d(lengths.square(), self.patch)
        return (means * self.patch**2).sqrt().repeat_interleave(self.patch, -2).repeat_interleave(self.patch, -1)


@dataclass(frozen=True)
class Pictured:
    """Guidance by a text and by a picture that the network reads (Brooks et al. 2023, eq. 3).

    `unconditional` holds two batches: the estimates with the picture only, and those with neither.  With c, p and u for the
    three, the paper's u + s_I (p - u) + s_T (c - p) is what `inner` makes of c and p, plus (s_I - 1) (p - u).
    """

    inner: Guidance
    image_scale: float

    def needs_unconditional(self, sigma: float) -> bool:
        return self.image_scale != 1 or self.inner.needs_unconditional(sigma)

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        pictured, bare = unconditional.chunk(2)
        return self.inner.combine(conditional, pictured, x, sigma) + (self.image_scale - 1) * (pictured - bare)


@dataclass(frozen=True)
class Interval:
    """Another guidance, but only for noise levels in `sigma_low..sigma_high` (Kynkaanniemi et al. 2024)."""

    inner: Guidance
    sigma_low: float
    sigma_high: float

    def needs_unconditional(self, sigma: float) -> bool:
        inside = self.sigma_low <= sigma <= self.sigma_high
        return inside and self.inner.needs_unconditional(sigma)

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        if not self.needs_unconditional(sigma):
            return conditional
        return self.inner.combine(conditional, unconditional, x, sigma)
