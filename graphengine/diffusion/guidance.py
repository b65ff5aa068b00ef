"""Guidance: how the estimates with and without the prompt become one.

All of it acts on denoised estimates, where classifier-free guidance has the same form as on noise estimates.  A guidance says for each
noise level whether it needs the second estimate at all, so that the network can be spared the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

ROUNDING = 1e-5
"""How far a noise level may be from its own step's."""


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
        return rescaled(unconditional + self.scale * (conditional - unconditional), conditional, self.rescale)


def rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """A guided estimate, by a share of the way brought back to the conditional one's standard deviation."""
    axes = tuple(range(1, guided.ndim))
    spread = guided.std(axes, keepdim=True).clamp(min=1e-8)
    matched = guided * (conditional.std(axes, keepdim=True) / spread)
    return guided + share * (matched - guided)


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
class Optimised:
    """Guidance away from the multiple of the unwanted velocity (or noise) that is nearest to the wanted one.

    s* v_u + scale * (v_c - s* v_u) with s* = <v_c, v_u> / |v_u|^2 (CFG-Zero*; Fan et al. 2025, eq. 8 and 12).
    """

    scale: float

    def needs_unconditional(self, sigma: float) -> bool:
        return self.scale != 1

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        wanted, unwanted = (x - conditional) / sigma, (x - unconditional) / sigma
        axes = tuple(range(1, x.ndim))
        nearest = (wanted * unwanted).sum(axes, keepdim=True) / (unwanted.square().sum(axes, keepdim=True) + 1e-8)
        unwanted = nearest * unwanted
        return x - sigma * (unwanted + self.scale * (wanted - unwanted))


class Projected:
    """Guidance whose update is shortened, and weakened along the conditional estimate (APG; Sadat et al. 2024, alg. 1).

    c + (scale - 1) * (u_orthogonal + parallel * u_along), where u is c minus the unconditional estimate, plus
    `momentum` times the last u, and no longer than `longest`; 0 leaves its length alone.  One object serves one run: it
    remembers the last update.
    """

    def __init__(self, scale: float, parallel: float = 0.0, longest: float = 0.0, momentum: float = 0.0):
        self.scale, self.parallel, self.longest, self.momentum = scale, parallel, longest, momentum
        self._last: Tensor | float = 0.0

    def needs_unconditional(self, sigma: float) -> bool:
        return self.scale != 1

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        update = conditional - unconditional
        if self.momentum:
            self._last = update = update + self.momentum * self._last
        axes = tuple(range(1, update.ndim))
        if self.longest:
            update = update * (
                self.longest / torch.linalg.vector_norm(update, dim=axes, keepdim=True).clamp(min=1e-12)
            ).clamp(max=1)
        direction = conditional / torch.linalg.vector_norm(conditional, dim=axes, keepdim=True).clamp(min=1e-12)
        along = (update * direction).sum(axes, keepdim=True) * direction
        return conditional + (self.scale - 1) * (update + (self.parallel - 1) * along)


def inside(levels: list[float], start: float, end: float) -> list[float]:
    """The noise levels in a share of the steps."""
    return levels[round(start * len(levels)) : round(end * len(levels))]


def within(sigma: float, low: float, high: float) -> bool:
    """Whether a noise level lies in a range, up to rounding."""
    return low * (1 - ROUNDING) <= sigma <= high * (1 + ROUNDING)


@dataclass(frozen=True)
class Push:
    """A push away from a worse estimate, of a network with disturbed self-attention, at noise levels in a range.

    guided + scale * (c - p) (Ahn et al. 2024, eq. 15; Hong 2024, eq. 13, with scale = gamma).
    """

    scale: float
    sigma_low: float
    sigma_high: float

    def wants(self, sigma: float) -> bool:
        """Whether the worse estimate is needed at this noise level."""
        return self.scale != 0 and within(sigma, self.sigma_low, self.sigma_high)

    def combine(self, guided: Tensor, conditional: Tensor, worse: Tensor) -> Tensor:
        return guided + self.scale * (conditional - worse)


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
        return within(sigma, self.sigma_low, self.sigma_high) and self.inner.needs_unconditional(sigma)

    def combine(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: float) -> Tensor:
        if not self.needs_unconditional(sigma):
            return conditional
        return self.inner.combine(conditional, unconditional, x, sigma)
