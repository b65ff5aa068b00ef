"""Where a network looks while it draws: the cross-attention of its layers, told to whoever listens.

A watched network is a twin whose cross-attention layers have a hook each.  What a layer computes is not touched, so it
draws bit for bit what the plain one draws; the hook works the probabilities out a second time from what the layer was
given, and only while somebody listens.  Recording (`AttentionRecorder`) and attend-and-excite both live on this.

Glossary
    cells          places of a layer's plane, row by row
    probabilities  `[B, heads, cells, tokens]`: how a cell's attention is shared out over the prompt's tokens
    maps           `[B, tokens, h, w]`: the same on the latent's plane, as a mean over heads, layers and calls
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphengine.diffusion.guidance import within
from graphengine.errors import CheckpointError
from graphengine.models.perturbed import MOST_LAYERS, group_of, named, plane_of
from graphengine.values import Patch

if TYPE_CHECKING:
    from graphengine.models.family import Prompts

LAYERS = "up"
"""Layers that point best at things: those of the way up (see `training/attention_score`)."""
Network = Callable[[Tensor, Tensor, "Prompts"], Tensor]
"""A family's `denoise`."""


class Listener(Protocol):
    """Whoever wants to know."""

    layers: str

    def heard(self, probabilities: Tensor) -> None:
        """The probabilities `[B, heads, cells, tokens]` of one layer in one call; B are all rows of the batch."""
        ...


class Recorder(Protocol):
    """Whoever records what a network does in a sampling run."""

    def patch(self) -> Patch:
        """What makes a network that can be recorded of a plain one."""
        ...

    def begins(self, shape: Sequence[int], levels: list[float]) -> None:
        """A run on latents `[B, C, h, w]` begins, with these noise levels; the next one goes on with more pictures."""
        ...

    def listening(self, denoise: Network) -> Network:
        """A network, listened to."""
        ...


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """While this lasts, a listener is told what watched networks look at."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def watch(network: nn.Module, layers: str) -> None:
    """Give a network's cross-attention layers ears, in place: give it a twin.

    Args:
        layers: parts of the layers' names (`mid`, `up_blocks.1`), separated by commas; none are all of them.

    Raises:
        CheckpointError: it has no such layers.
    """
    known = dict(_cross_attentions(network))
    kind = type(network).__name__
    if not known:
        raise CheckpointError(f"a {kind} has no plain cross-attention that could be watched; a U-Net has.")
    wanted = [part.strip() for part in layers.split(",") if part.strip()][:MOST_LAYERS]
    for part in wanted:
        if not any(named(part, name) for name in known):
            groups = ", ".join(dict.fromkeys(group_of(name) for name in known))
            raise CheckpointError(f"the {kind} has no cross-attention in a layer {part!r}; it has some in {groups}.")
    for name, layer in known.items():
        if not wanted or any(named(part, name) for part in wanted):
            layer.register_forward_hook(partial(_tell, layers), with_kwargs=True)


def _cross_attentions(network: nn.Module) -> Iterator[tuple[str, Any]]:
    from diffusers.models.attention_processor import Attention

    for name, module in network.named_modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            yield name, module


def _tell(layers: str, layer: Any, given: tuple[Any, ...], named_inputs: dict[str, Any], output: Any) -> None:
    """The hook of a layer: after its own work, so that weights that come block by block are there."""
    listener = _listener.get()
    if listener is None or listener.layers != layers:
        return
    inputs = dict(zip(("hidden_states", "encoder_hidden_states", "attention_mask"), given, strict=False)) | named_inputs
    words = inputs["encoder_hidden_states"]
    words = words[0] if isinstance(words, tuple | list) else words  # pictures come beside the words
    listener.heard(_probabilities(layer, inputs["hidden_states"], words, inputs.get("attention_mask")))


def _probabilities(layer: Any, cells: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) of an attention layer, `[B, heads, cells, tokens]`, with its own projections."""
    cells = cells.flatten(2).transpose(1, 2) if cells.ndim == 4 else cells
    words = layer.norm_encoder_hidden_states(words) if layer.norm_cross else words
    query, key = (_heads(layer, made) for made in (layer.to_q(cells), layer.to_k(words)))
    query = query if layer.norm_q is None else layer.norm_q(query)
    key = key if layer.norm_k is None else layer.norm_k(key)
    mask = layer.prepare_attention_mask(mask, words.shape[1], len(cells))
    return layer.get_attention_scores(query.flatten(0, 1), key.flatten(0, 1), mask).unflatten(0, (-1, layer.heads))


def _heads(layer: Any, projected: Tensor) -> Tensor:
    return projected.unflatten(-1, (layer.heads, -1)).transpose(1, 2)


def on_plane(probabilities: Tensor, plane: tuple[int, int]) -> Tensor:
    """Probabilities of one layer as maps `[B, tokens, h, w]` on the latent's plane, as a mean over its heads."""
    maps = probabilities.float().mean(1).transpose(1, 2)
    maps = maps.unflatten(-1, plane_of(maps.shape[-1], plane))
    return maps if maps.shape[-2:] == plane else functional.interpolate(maps, plane, mode="bilinear")


class AttentionRecorder:
    """Listens to the branch of the wanted prompt over a run, in the share of its steps from `start` to `end`."""

    def __init__(self, layers: str = LAYERS, start: float = 0.0, end: float = 1.0):
        self.layers, self._start, self._end = layers, start, end
        self._sums: list[Tensor] = []
        self._counts: list[int] = []
        self._range = (0.0, 0.0)
        self._plane, self._batch = (1, 1), 1

    def patch(self) -> Patch:
        return Patch("watched", self.layers)

    def begins(self, shape: Sequence[int], levels: list[float]) -> None:
        self._batch, self._plane = shape[0], (shape[-2], shape[-1])
        inside = levels[round(self._start * len(levels)) : round(self._end * len(levels))]
        self._range = (inside[-1], inside[0]) if inside else (0.0, 0.0)
        self._sums.append(torch.zeros(1))
        self._counts.append(0)

    def listening(self, denoise: Network) -> Network:
        def call(x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
            with heard_by(self if within(float(sigma), *self._range) else None):
                return denoise(x, sigma, prompts)

        return call

    def heard(self, probabilities: Tensor) -> None:
        maps = on_plane(probabilities[: self._batch].detach(), self._plane)
        self._sums[-1] = self._sums[-1] + maps.cpu()
        self._counts[-1] += 1

    def maps(self) -> Tensor:
        """What was looked at, `[B, tokens, h, w]`; the tokens of a cell add up to 1.

        Raises:
            ValueError: no step lies in the share of the steps that was to be recorded.
        """
        if not all(self._counts) or not self._counts:
            raise ValueError(f"no step lies between start {self._start} and end {self._end} of the recording.")
        return torch.cat([total / count for total, count in zip(self._sums, self._counts, strict=True)])


def heat(maps: Tensor, rows: Sequence[int]) -> Tensor:
    """How much each cell looks at a word: `[B, h, w]`, the sum over the rows of its tokens."""
    return maps[:, list(rows)].sum(1)


def pointing(heat: np.ndarray, mask: np.ndarray) -> tuple[float, bool, float]:
    """How well a map points at a thing: its mass inside the thing, whether its peak lies there, and chance for both.

    Args:
        heat: `[h, w]`, not negative; it is enlarged to the mask's size.
        mask: `[H, W]`, above 0.5 where the thing is.
    """
    inside = mask > 0.5
    large = functional.interpolate(torch.as_tensor(heat)[None, None].float(), inside.shape, mode="bilinear")[
        0, 0
    ].numpy()
    share = float(large[inside].sum() / max(float(large.sum()), 1e-12))
    return share, bool(inside.flat[int(large.argmax())]), float(inside.mean())
