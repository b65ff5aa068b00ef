"""Networks with disturbed self-attention, for guidance that pushes an estimate away from a worse one.

Two ways of disturbing are known.  In place of its attention a layer can let every cell see itself alone (perturbed
attention; Ahn et al. 2024); or its queries can be blurred, so that the attention's energy is smoothed (Hong 2024).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphengine.diffusion import guidance as guide
from graphengine.diffusion.samplers import Denoise
from graphengine.errors import CheckpointError
from graphengine.guiding import OptimisedScale

if TYPE_CHECKING:
    from graphengine.models.family import DenoiserAdapter, Prompts
    from graphengine.values import Guider

Estimates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of x at a noise level: the guided estimate, and the conditional one."""

EVEN = 10_000.0
"""From this blur on all queries become their mean."""
MOST_LAYERS = 64
"""Names that may be given."""
_shape: ContextVar[tuple[int, int]] = ContextVar("shape")
"""Height and width of what is being attended to: layers see a row of cells."""


def disturb(network: nn.Module, layers: str, blur: float) -> None:
    """Disturb the self-attention of a network's layers, in place: give it a twin.

    Args:
        layers: parts of the layers' names (`mid`, `up_blocks.1`), separated by commas.
        blur: standard deviation of the Gaussian that queries are blurred with, in cells; 0 puts the identity in place
            of the attention.

    Raises:
        CheckpointError: it has no such layers.
    """
    known = dict(_self_attentions(network))
    kind = type(network).__name__
    if not known:
        raise CheckpointError(f"a {kind} has no plain self-attention that could be disturbed; a U-Net has.")
    wanted = [part.strip() for part in layers.split(",") if part.strip()][:MOST_LAYERS]
    for part in wanted:
        if not any(_named(part, name) for name in known):
            groups = ", ".join(dict.fromkeys(_group(name) for name in known))
            raise CheckpointError(f"the {kind} has no self-attention in a layer {part!r}; it has some in {groups}.")
    for name, layer in known.items():
        if any(_named(part, name) for part in wanted):
            if blur:
                layer.to_q = Blurred(layer.to_q, blur)
            else:
                layer.processor = _Identity()
    if blur:
        for module in network.modules():
            if module is network or type(module).__name__ == "Transformer2DModel":
                module.register_forward_pre_hook(_remember, with_kwargs=True)


def _self_attentions(network: nn.Module) -> list[tuple[str, Any]]:
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, Attention)
        and not module.is_cross_attention
        and isinstance(module.processor, AttnProcessor | AttnProcessor2_0)
    ]


def _named(part: str, name: str) -> bool:
    """Whether a name holds a part; `blocks.1` is no part of `blocks.10`."""
    return re.search(re.escape(part) + r"(?!\d)", name) is not None


def _group(name: str) -> str:
    """The block that a layer is in: `up_blocks.1`, `mid_block`, `transformer_blocks.7`."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() else first


class _Identity:
    """Attention with the identity for its map: out = V (Ahn et al. 2024, eq. 10)."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, temb: Tensor | None = None, **_: Any) -> Tensor:
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        cells = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        if attn.group_norm is not None:
            cells = attn.group_norm(cells.transpose(1, 2)).transpose(1, 2)
        out = attn.to_out[1](attn.to_out[0](attn.to_v(cells)))
        if hidden_states.ndim == 4:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def _remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    planes = next((item for item in (*args, *kwargs.values()) if isinstance(item, Tensor) and item.ndim == 4), None)
    if planes is not None:
        _shape.set((planes.shape[-2], planes.shape[-1]))


class Blurred(nn.Module):
    """A projection whose results are blurred over the plane that they lie in (Hong 2024, eq. 9)."""

    def __init__(self, inner: nn.Module, blur: float):
        super().__init__()
        self.inner, self.blur = inner, blur

    def forward(self, cells: Tensor) -> Tensor:
        """Projected cells `[B, N, D]`."""
        return blurred(self.inner(cells), _shape.get((1, 1)), self.blur)


def blurred(cells: Tensor, shape: tuple[int, int], blur: float) -> Tensor:
    """Cells `[B, N, D]` of a plane like `shape` (height, width), at whatever scale, under a Gaussian blur."""
    if blur >= EVEN:
        return cells.mean(1, keepdim=True).expand_as(cells)
    rows, columns = _plane(cells.shape[1], shape)
    plane = cells.transpose(1, 2).reshape(-1, 1, rows, columns)
    for axis, size in ((2, rows), (3, columns)):
        kernel = _gaussian(blur, size).to(cells)
        along = [1, 1, 1, 1]
        along[axis] = -1
        half = len(kernel) // 2
        padding = (0, 0, half, half) if axis == 2 else (half, half, 0, 0)
        plane = functional.conv2d(functional.pad(plane, padding, mode="reflect"), kernel.view(along))
    return plane.reshape(cells.shape[0], cells.shape[2], -1).transpose(1, 2)


def _plane(cells: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of so many cells: the two factors that are nearest to the shape's proportions."""
    wanted = math.log(shape[0] / shape[1])
    sides = [side for side in range(1, math.isqrt(cells) + 1) if cells % side == 0]
    pairs = [pair for side in sides for pair in ((side, cells // side), (cells // side, side))]
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1]) - wanted))


def _gaussian(blur: float, size: int) -> Tensor:
    """Weights of an odd number of cells, six deviations wide, or as wide as reflection at the edges allows."""
    width = math.ceil(6 * blur)
    width = min(width + 1 - width % 2, size + 1 - size % 2)
    place = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
    weights = torch.exp(-0.5 * (place / blur).square())
    return weights / weights.sum()


named, group_of, plane_of = _named, _group, _plane
"""For other observers of layers."""


# In the loop


def refined(
    guider: Guider, worse: DenoiserAdapter | None, wanted: Prompts, levels: list[float], estimates: Estimates
) -> Denoise:
    """`denoise(x, sigma)` out of guided and conditional estimates: first steps left out, a push away, rescaling.

    Args:
        worse: the denoiser with disturbed self-attention.
        levels: the noise level of every step.

    Raises:
        ValueError: all steps are left out.
    """
    quiet = guider.rule.zero_steps if isinstance(guider.rule, OptimisedScale) else 0
    if quiet >= len(levels):
        raise ValueError(f"guidance leaves out the first {quiet} steps, and there are {len(levels)}.")
    pushed, push = guider.perturbation, guide.Push(0, 0, 0)
    if pushed and (inside := guide.inside(levels, pushed.start, pushed.end)):
        push = guide.Push(pushed.scale, inside[-1], inside[0])
    share = guider.rescale if guider.rule or pushed else 0.0

    def call(x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma)
        if quiet and level > levels[quiet] * (1 + guide.ROUNDING):
            return x  # no velocity
        guided, conditional = estimates(x, sigma)
        if worse is not None and push.wants(level):
            guided = push.combine(guided, conditional, worse.denoise(x, sigma, wanted.at(sigma)))
        return guide.rescaled(guided, conditional, share) if share and guided is not conditional else guided

    return call
