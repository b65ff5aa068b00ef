"""The levels of a U-Net: what they hold while it draws, and what it draws without the skip connections of one.

On its way down a U-Net makes its planes smaller and smaller, and on its way up larger again.  What was lost on the way
down comes back through skip connections: every level of the way up is given what that of the way down held at the same
size (Ronneberger et al. 2015).  Two kinds of twins show this.  One hands what leaves each of its levels to whoever
listens, and draws bit for bit what the plain one draws; the other finds zeros where the skips of one level were.

Glossary
    level      planes of one size: level 1 has the latent's own, each further one is half as wide
    place      where the network is looked into: `down 1`, `down 2`, ..., `middle`, ..., `up 2`, `up 1`
    features   `[B, C, h, w]`: what a place hands on, at its own level's size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphengine.diffusion.guidance import within
from graphengine.errors import CheckpointError
from graphengine.values import Patch

if TYPE_CHECKING:
    from graphengine.models.attention import Network
    from graphengine.models.family import Prompts

SKIPS = "res_hidden_states_tuple"
"""What diffusers calls the skips that a level of the way up is given."""
Heard = Callable[[str, Tensor], None]
"""Is told a place and its features, all rows of the batch."""
_listener: ContextVar[Heard | None] = ContextVar("listener", default=None)


@contextmanager
def _heard_by(listener: Heard | None) -> Iterator[None]:
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def levels_of(network: nn.Module) -> int:
    """How many levels a U-Net has.

    Raises:
        CheckpointError: the network is none.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if not isinstance(network, UNet2DConditionModel):
        raise CheckpointError(f"a {type(network).__name__} has no levels with skip connections; a U-Net has.")
    return len(network.up_blocks)


def remove_skips(network: Any, level: int) -> None:
    """Put zeros in the place of the skips of a level, in place: give it a twin.

    What is left at that level comes from the smaller one below it, made larger, and from the middle at the last.

    Raises:
        CheckpointError: the network is no U-Net, or has no such level.
    """
    count = levels_of(network)
    if not 1 <= level <= count:
        raise CheckpointError(
            f"the U-Net has no level {level}; it has 1, of the latent's size, to {count}, the smallest."
        )
    network.up_blocks[count - level].register_forward_pre_hook(_without_skips, with_kwargs=True)


def _without_skips(
    block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return given, named | {SKIPS: tuple(torch.zeros_like(skip) for skip in named[SKIPS])}


def open_levels(network: Any) -> None:
    """Let the levels of a U-Net tell what they hold, in place: give it a twin.

    Raises:
        CheckpointError: the network is no U-Net.
    """
    levels_of(network)
    for place, block in _places(network):
        resampler = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None)
        if resampler:  # what goes into it still has the level's size
            resampler[0].register_forward_pre_hook(partial(_tell_input, place))
        else:
            block.register_forward_hook(partial(_tell_output, place))


def _places(network: Any) -> Iterator[tuple[str, nn.Module]]:
    for number, block in enumerate(network.down_blocks, 1):
        yield f"down {number}", block
    if network.mid_block is not None:
        yield "middle", network.mid_block
    for number, block in enumerate(network.up_blocks):
        yield f"up {len(network.up_blocks) - number}", block


def _tell_input(place: str, resampler: nn.Module, given: tuple[Any, ...]) -> None:
    if listener := _listener.get():
        listener(place, given[0])


def _tell_output(place: str, block: nn.Module, given: tuple[Any, ...], output: Any) -> None:
    if listener := _listener.get():
        listener(place, output[0] if isinstance(output, tuple) else output)


class FeatureRecorder:
    """A `Recorder` of features; it keeps what the branch of the wanted prompt holds at one step of a run: the share `at` of the way, 0..1."""

    def __init__(self, at: float = 0.5):
        self._at, self._level, self._batch = at, 0.0, 1
        self._runs: list[dict[str, Tensor]] = []

    def patch(self) -> Patch:
        return Patch("open", "levels")

    def begins(self, shape: Sequence[int], levels: list[float]) -> None:
        self._batch, self._level = shape[0], levels[round(self._at * (len(levels) - 1))]
        self._runs.append({})

    def listening(self, denoise: Network) -> Network:
        def call(x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
            with _heard_by(self._heard if within(float(sigma), self._level, self._level) else None):
                return denoise(x, sigma, prompts)

        return call

    def _heard(self, place: str, features: Tensor) -> None:
        self._runs[-1][place] = features[: self._batch].detach().float().cpu()  # of several calls in a step, the last

    def features(self) -> dict[str, Tensor]:
        """Features `[B, C, h, w]` by place, in the order in which the network goes through them.

        Raises:
            ValueError: the step was not among those that were done.
        """
        if not self._runs or not all(self._runs):
            raise ValueError(f"the step at {self._at:g} of the way is not among those that are done.")
        return {place: torch.cat([run[place] for run in self._runs]) for place in self._runs[0]}
