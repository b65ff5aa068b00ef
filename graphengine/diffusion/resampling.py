"""Taking every step several times, so that what is painted and what is known come to fit (Lugmayr et al. 2022, section 4.2).

Within a mask a sampler conditions only on the known latent with as much noise; what it paints fits that poorly at first.
Putting the step's noise back and taking the step again lets both sides of the seam grow together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from graphengine.diffusion.samplers import Denoise, Noise, Sampler, Step, levels


def repeated(sampler: Sampler, times: int) -> Sampler:
    """A sampler that takes every step but the last `times` times, with fresh noise between (algorithm 1, jump length 1).

    In the variance-exploding space, noise of variance sigma^2 - sigma'^2 leads from sigma' back to sigma.  A multistep
    sampler begins anew with every step.
    """

    def run(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Step]:
        for index, _, sigma, following in levels(sigmas):
            for left in range(times if following > 0 else 1, 0, -1):
                for step in sampler(denoise, x, sigmas[index : index + 2], noise):
                    x = step.x
                    if left > 1:
                        x = x + noise() * (sigma**2 - following**2) ** 0.5
                    else:
                        yield replace(step, index=index)

    return run
