"""From a clean latent back to the noise that a deterministic sampler would draw it from.

A sampler solves the probability flow dx/dsigma = (x - D(x, sigma)) / sigma from noise to data; here it is solved the
other way.  Euler's step from sigma to sigma' < sigma is x' = x + (sigma' - sigma) d(x, sigma).  Going back, x' is known
and x is wanted, but d is taken at x: the equation x = x' + (sigma - sigma') d(x, sigma) is implicit.  DDIM inversion
(Song et al. 2021, section 4.3; Mokady et al. 2023) puts a guess in place of x once; iterating to the fixed point
(Pan et al. 2023) makes the way back the exact inverse of the way forth.

In the variance-exploding space this is DDIM inversion, because DDIM is Euler's method there; on the straight line of
a rectified flow it is the inversion of the flow.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule
from graphengine.diffusion.samplers import Denoise, Step
from graphengine.diffusion.sigmas import Schedule


def invert(denoise: Denoise, x: Tensor, sigmas: Tensor, schedule: Schedule, fixed_point: int = 0) -> Iterator[Step]:
    """Walk up a run's noise levels, from the clean latent `x` at the last, 0, to the first.

    `fixed_point` 0 is DDIM inversion, one network call a step; every iteration more costs another call.  A `Step`
    tells x at the level `sigma` that was come to, and the estimate there.
    """
    values = sigmas.tolist()
    for index in range(len(values) - 2, -1, -1):
        sigma, before = values[index], values[index + 1]
        guess = x * carried(schedule, before, sigma)
        denoised = x
        for _ in range(fixed_point + 1):
            denoised = denoise(guess, sigmas[index])
            guess = x + (guess - denoised) * ((sigma - before) / sigma)
        x = guess
        yield Step(len(values) - 2 - index, sigma, x, denoised)


def carried(schedule: Schedule, low: float, high: float) -> float:
    """What a latent at one noise level is multiplied by to be shown to a network at a higher one, as it is.

    Networks of a variance-preserving process read x / sqrt(1 + sigma^2), and the field's DDIM inversion shows them the
    same input at the next timestep; on the straight line of a flow, x is the input.
    """
    return 1.0 if isinstance(schedule, FlowSchedule) else ((1 + high**2) / (1 + low**2)) ** 0.5
