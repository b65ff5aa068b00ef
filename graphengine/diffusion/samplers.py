"""Samplers: each reads like its paper's algorithm box.

The contract is k-diffusion's: the network is `denoised = denoise(x, sigma)` in the variance-exploding space
x = x0 + sigma * eps.  A sampler is a generator; it yields a `Step` after every move, so progress, previews and stopping
belong to the caller.  Noise is injected: `noise()` gives a fresh standard normal like x.  Nothing here knows what a network
predicts, where it runs, or how it is guided.

Glossary
    sigmas    float `[steps + 1]`, falling, the last 0
    d         dx/dsigma = (x - denoised) / sigma, the direction of the probability flow (Karras et al. 2022, eq. 3)
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """What a sampler tells after each move: its number, the level it came from, x after it, and the estimate."""

    index: int
    sigma: float
    x: Tensor
    denoised: Tensor


Sampler = Callable[[Denoise, Tensor, Tensor, Noise], Iterator[Step]]


def levels(sigmas: Tensor) -> Iterator[tuple[int, Tensor, float, float]]:
    """(index, sigma as a tensor for the network, sigma, next sigma): one transfer from the device for the whole run."""
    values = sigmas.tolist()
    for index, (sigma, following) in enumerate(itertools.pairwise(values)):
        yield index, sigmas[index], sigma, following


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """Euler's method on the probability flow (Karras et al. 2022, algorithm 2 without churn)."""
    for index, level, sigma, following in levels(sigmas):
        denoised = denoise(x, level)
        x = denoised + (x - denoised) * (following / sigma)
        yield Step(index, sigma, x, denoised)


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """DDIM with eta 0 (Song et al. 2021, eq. 12).

    In the variance-exploding space its step is x' = denoised + sigma' * eps with eps = (x - denoised) / sigma, which is
    Euler's; both names are kept because people look for both.
    """
    yield from euler(denoise, x, sigmas, noise)


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """Heun's second-order method (Karras et al. 2022, algorithm 1): two network calls a step, one for the last."""
    for index, level, sigma, following in levels(sigmas):
        denoised = denoise(x, level)
        d = (x - denoised) / sigma
        ahead = x + d * (following - sigma)
        if following > 0:
            corrected = (ahead - denoise(ahead, sigmas[index + 1])) / following
            ahead = x + (d + corrected) / 2 * (following - sigma)
        x = ahead
        yield Step(index, sigma, x, denoised)


def ancestral_levels(sigma: float, following: float) -> tuple[float, float]:
    """(down, up): how far to go without noise, and how much to add, so that the level is `following` again."""
    up = min(following, (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5)
    return (following**2 - up**2) ** 0.5, up


def euler_ancestral(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """Euler steps that overshoot and put fresh noise back (k-diffusion's ancestral sampling, eta 1)."""
    for index, level, sigma, following in levels(sigmas):
        denoised = denoise(x, level)
        down, up = ancestral_levels(sigma, following)
        x = denoised + (x - denoised) * (down / sigma)
        if following > 0:
            x = x + noise() * up
        yield Step(index, sigma, x, denoised)


def ddpm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """Draws from the posterior q(x' | x, x0) with x0 = denoised (Ho et al. 2020, eq. 6-7, the smaller variance).

    In the variance-exploding space, with r = sigma'^2 / sigma^2: mean (1 - r) x0 + r x, variance sigma'^2 (1 - r).
    """
    for index, level, sigma, following in levels(sigmas):
        denoised = denoise(x, level)
        ratio = (following / sigma) ** 2
        x = denoised + (x - denoised) * ratio
        if following > 0:
            x = x + noise() * (following * (1 - ratio) ** 0.5)
        yield Step(index, sigma, x, denoised)


def lcm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """Multistep consistency sampling (Luo et al. 2023, algorithm 3): jump to the estimate, noise it again.

    The boundary scalings of a consistency model (c_skip below 1e-4 but for the last steps) are the model's
    affair, not the sampler's.
    """
    for index, level, sigma, following in levels(sigmas):
        x = denoised = denoise(x, level)
        if following > 0:
            x = x + noise() * following
        yield Step(index, sigma, x, denoised)


def lms(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """Linear multistep of up to fourth order (Adams-Bashforth on uneven levels), with exact coefficients."""
    history: list[Tensor] = []
    values = sigmas.tolist()
    for index, level, sigma, _ in levels(sigmas):
        denoised = denoise(x, level)
        history = [(x - denoised) / sigma, *history[:3]]
        for d, weight in zip(history, _adams_weights(values, index, len(history)), strict=True):
            x = x + d * weight
        yield Step(index, sigma, x, denoised)


def _adams_weights(sigmas: list[float], index: int, order: int) -> list[float]:
    """Integrals from sigma_i to sigma_(i+1) of the Lagrange polynomials through the last `order` levels."""
    weights = []
    nodes = [sigmas[index - k] for k in range(order)]
    for chosen in nodes:
        basis = np.polynomial.Polynomial([1.0])
        for other in nodes:
            if other != chosen:
                basis = basis * np.polynomial.Polynomial([-other, 1.0]) / (chosen - other)
        integral = basis.integ()
        weights.append(float(integral(sigmas[index + 1]) - integral(sigmas[index])))
    return weights


def sampler(name: str) -> Sampler:
    """The sampler of a name.  Raises ValueError naming the nearest when there is none."""
    from graphengine.diffusion.multistep import MULTISTEP

    known = SAMPLERS | MULTISTEP
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There is {', '.join(known)}."
    raise ValueError(f"there is no sampler {name!r}. {hint}")


SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "ddim": ddim,
    "ddpm": ddpm,
    "lms": lms,
    "lcm": lcm,
}
