"""Attend and excite (Chefer et al. 2023): no word that matters is overlooked.

While a picture's layout is made, the latent is moved along the gradient of a loss: that the least attended of the chosen
words finds a cell that looks at it.  Samplers keep their own x, so what is moved here is the noise in it: x + sigma u
with one u for the whole run.  For samplers that only ever scale x by the ratio of two noise levels (Euler, DDIM,
DPM-Solver++, UniPC) that is the same as moving x itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from graphengine.diffusion.flow import FlowSchedule
from graphengine.diffusion.guidance import within
from graphengine.guiding import Excitation
from graphengine.models.attention import heard_by, on_plane
from graphengine.models.family import DenoiserAdapter, Prompts

Denoise = Callable[[Tensor, Tensor], Tensor]
SMOOTHING = 0.5
"""Standard deviation of the blur under which a peak is looked for, in cells: a single cell is not enough."""


QUIET = ("euler", "heun", "ddim", "lms", "dpmpp_2m", "unipc")
"""Samplers that add no noise of their own, so that one offset holds for the whole run."""


class Exciter:
    """Moves the latent of one run; it listens to the network that tells it what is looked at."""

    def __init__(self, excitation: Excitation, model: DenoiserAdapter, prompts: Prompts, levels: list[float]):
        self._excitation, self._model, self._prompts = excitation, model, prompts
        inside = levels[: round(excitation.end * len(levels))]
        self._range = (inside[-1], inside[0]) if inside else (0.0, 0.0)
        self._offset: Tensor | float = 0.0
        self._maps: list[Tensor] = []
        self._plane = (1, 1)
        self.layers = excitation.layers

    def moving(self, call: Denoise) -> Denoise:
        """`denoise(x, sigma)` at the moved latent."""

        def moved(x: Tensor, sigma: Tensor) -> Tensor:
            level = float(sigma)
            for _ in range(self._excitation.rounds if within(level, *self._range) else 0):
                slope = self._slope(x + level * self._offset, sigma)
                self._offset = self._offset - self._excitation.strength * slope * self._scale(level) / level
            return call(x + level * self._offset, sigma)

        return moved

    def _scale(self, level: float) -> float:
        """A step of the paper's is one in what networks are given: x / sqrt(1 + sigma^2), or x itself on a flow's line."""
        return 1.0 if isinstance(self._model.schedule, FlowSchedule) else 1 + level**2

    def heard(self, probabilities: Tensor) -> None:
        self._maps.append(on_plane(probabilities, self._plane))

    def _slope(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The gradient of the loss, `[B, C, h, w]`; pictures of a batch do not touch one another."""
        self._maps, self._plane = [], (x.shape[-2], x.shape[-1])
        with torch.enable_grad(), heard_by(self):
            x = x.detach().requires_grad_()
            self._model.denoise(x, sigma, self._prompts.at(sigma))
            loss = overlooked(torch.stack(self._maps).mean(0), self._excitation).sum()
            self._maps = []
            return torch.autograd.grad(loss, x)[0]


def overlooked(maps: Tensor, excitation: Excitation) -> Tensor:
    """1 less the attention that the least attended word finds in its best cell, `[B]` in 0..1.

    Args:
        maps: `[B, tokens, h, w]`.
        excitation: whose words count; attention is shared out over all words of the prompt, marks and padding left out.
    """
    shares = maps / maps[:, list(excitation.tokens)].sum(1, keepdim=True).clamp(min=1e-8)
    words = torch.stack([shares[:, list(rows)].sum(1) for rows in excitation.words], 1)
    peaks = _blurred(words).flatten(2).amax(-1)
    return 1 - peaks.amin(1)


def _blurred(planes: Tensor) -> Tensor:
    """Planes `[B, N, h, w]` under a blur over 3 x 3 cells, their edges repeated."""
    place = torch.arange(-1, 2, dtype=planes.dtype, device=planes.device)
    line = torch.exp(-0.5 * (place / SMOOTHING).square())
    kernel = (line[:, None] * line)[None, None] / line.sum().square()
    padded = functional.pad(planes.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, kernel)[:, 0].unflatten(0, planes.shape[:2])
