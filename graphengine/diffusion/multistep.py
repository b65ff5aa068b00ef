"""Multistep exponential integrators: the DPM-Solver++ and UniPC families.

They solve the flow in lambda = -log(sigma), where the linear part is exact, and extrapolate the estimate from earlier
ones; one network call a step.  The last step, to sigma 0, is always the estimate itself.

Glossary
    h         lambda' - lambda, the length of the step; positive
    history   earlier (denoised, lambda), newest first
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from graphengine.diffusion.samplers import Denoise, Noise, Sampler, Step, levels


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2)."""
    previous: tuple[Tensor, float] | None = None
    for index, level, sigma, following in levels(sigmas):
        denoised = denoise(x, level)
        if following == 0:
            x = denoised
        else:
            h = math.log(sigma / following)
            direction = denoised
            if previous:
                ratio = previous[1] / h
                direction = denoised + (denoised - previous[0]) / (2 * ratio)
            x = x * (following / sigma) - direction * math.expm1(-h)
            previous = denoised, h
        yield Step(index, sigma, x, denoised)


def dpmpp_2m_sde(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M), midpoint form, eta 1 (Lu et al. 2022b, eq. 20 and appendix)."""
    yield from _sde(denoise, x, sigmas, noise, order=2)


def dpmpp_3m_sde(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """SDE-DPM-Solver++ of third order, eta 1; its second step is the midpoint form, as in diffusers.

    diffusers weighs the second difference with (1 - e^-z - z) / z^2 - 1/2, which does not vanish with the step; the
    expansion of the integral has + 1/2, as here and in k-diffusion.
    """
    yield from _sde(denoise, x, sigmas, noise, order=3)


def _sde(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, order: int) -> Iterator[Step]:
    history: list[tuple[Tensor, float]] = []
    for index, level, sigma, following in levels(sigmas):
        denoised = denoise(x, level)
        if following == 0:
            x = denoised
            yield Step(index, sigma, x, denoised)
            continue
        h = math.log(sigma / following)
        decay = -math.expm1(-2 * h)
        x = x * (following / sigma * math.exp(-h)) + denoised * decay
        if len(history) == 1 or (history and order == 2):
            (before, h_1) = history[0]
            x = x + (denoised - before) * (0.5 * decay * h / h_1)
        elif len(history) == 2:
            x = x + _third_order(denoised, history, h)
        x = x + noise() * (following * decay**0.5)
        history = [(denoised, h), *history[: order - 2]]
        yield Step(index, sigma, x, denoised)


def _third_order(denoised: Tensor, history: list[tuple[Tensor, float]], h: float) -> Tensor:
    """First and second differences of the estimates, weighted by phi_2 and phi_3 of z = 2h."""
    (d_1, h_1), (d_2, h_2) = history
    r_0, r_1 = h_1 / h, h_2 / h
    near, far = (denoised - d_1) / r_0, (d_1 - d_2) / r_1
    first = near + (near - far) * (r_0 / (r_0 + r_1))
    second = (near - far) / (r_0 + r_1)
    z = 2 * h
    phi_2 = math.expm1(-z) / z + 1
    return first * phi_2 - second * (phi_2 / z - 0.5)


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
    """UniPC of second order with B(h) = exp(h) - 1 ("bh2"; Zhao et al. 2023, algorithms 5 and 6).

    Each estimate first corrects the step that led to it, then predicts the next: still one network call a step.
    """
    estimates: list[tuple[Tensor, float]] = []
    started: Tensor | None = None  # x before the step that is about to be corrected
    order = 1
    values = sigmas.tolist()
    for index, level, sigma, following in levels(sigmas):
        denoised = denoise(x, level)
        if started is not None:
            x = _unipc_step(started, estimates, values[index], order, denoised)
        estimates = [(denoised, sigma), *estimates[:1]]
        order = min(2, index + 1, len(values) - 1 - index)
        started = x
        x = denoised if following == 0 else _unipc_step(x, estimates, following, order)
        yield Step(index, sigma, x, denoised)


def _unipc_step(
    x: Tensor,
    estimates: list[tuple[Tensor, float]],
    following: float,
    order: int,
    ahead: Tensor | None = None,
) -> Tensor:
    """Predict x at `following`; with the estimate `ahead` made there, correct it."""
    newest, sigma = estimates[0]
    h = math.log(sigma / following)
    grow = math.expm1(-h)
    moved = x * (following / sigma) - newest * grow
    if order == 1:
        return moved if ahead is None else moved - (ahead - newest) * (0.5 * grow)
    older, sigma_older = estimates[1]
    ratio = math.log(sigma / sigma_older) / h  # negative: it lies behind
    slope = (older - newest) / ratio
    if ahead is None:
        return moved - slope * (0.5 * grow)
    first = grow / -h - 1  # h phi_2
    b_1, b_2 = first / grow, (first / -h - 0.5) * 2 / grow
    back = (b_1 - b_2) / (1 - ratio)  # solves [[1, 1], [ratio, 1]] (back, front) = (b_1, b_2)
    return moved - (slope * back + (ahead - newest) * (b_1 - back)) * grow


MULTISTEP: dict[str, Sampler] = {
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "unipc": unipc,
}
