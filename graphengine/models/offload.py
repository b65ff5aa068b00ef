"""Networks whose weights stay on the host and go to the device block by block, each just before it is used.

It is slower, and exact: the same kernels see the same numbers.  Hooks put a block's weights on the device before its
forward pass and let go of them after it, by writing into parameters; so a network of this kind has parameters of its own,
which lie on the same memory as those of its siblings.  (The hooks of diffusers that do the like want a further package.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graphengine.models.variant import with_networks

PARTS = ("Denoiser", "Text", "ControlNet")
"""Parts that can be run so; what an autoencoder needs are not weights."""
SHARE = 16
"""A block is at most this part of the network, where the network can be taken apart so far."""
WHOLE = (nn.MultiheadAttention,)
"""Modules that read the weights of those inside without calling them."""
NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def by_blocks(adapter: Any, device: str) -> Any:
    """A copy of an adapter on the host whose networks run on a device, block by block; its siblings see nothing of it."""

    def change(network: nn.Module, target: str) -> nn.Module:
        made = _own(network)
        _stream(made, device)
        return made

    made = with_networks(adapter, change)
    for part in _inner(made):
        for name in ("device", "_device"):
            if name in vars(part):
                setattr(part, name, device)
    return made


def _inner(adapter: Any) -> list[Any]:
    """An adapter, and those that it is made of."""
    found = [adapter]
    for value in vars(adapter).values():
        found += [part for part in (value if isinstance(value, list) else [value]) if hasattr(part, "network")]
    return found


def _own(network: nn.Module) -> nn.Module:
    """A copy of a network with parameters of its own on the same memory."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in network.parameters()}
    memo |= {id(buffer): buffer.detach() for buffer in network.buffers()}
    return copy.deepcopy(network, memo)


def _stream(network: nn.Module, device: str) -> None:
    blocks = list(_blocks(network, _bytes(network) // SHARE))
    inside = {id(tensor) for block in blocks for tensor in _tensors(block)}
    for tensor in _tensors(network):
        if id(tensor) not in inside:  # read by what is no block: it goes there for good
            tensor.data = tensor.data.to(device)
    for block in blocks:
        _Streamed(block, device)


def _blocks(module: nn.Module, most: int) -> Iterator[nn.Module]:
    """Modules of at most so many bytes, or such that cannot be taken apart; together nearly all of the network."""
    for child in module.children():
        callable_ = not isinstance(child, NEVER_CALLED)
        if callable_ and (_bytes(child) <= most or isinstance(child, WHOLE) or not any(True for _ in child.children())):
            yield child
        else:
            yield from _blocks(child, most)


class _Streamed:
    """The hooks of one block, and its weights on the host."""

    def __init__(self, block: nn.Module, device: str):
        self._weights = [(tensor, tensor.data) for tensor in _tensors(block)]
        self._device = torch.device(device)
        block.register_forward_pre_hook(self._begins)
        block.register_forward_hook(self._ends, always_call=True)  # also when memory runs out inside

    def _begins(self, block: nn.Module, inputs: Any) -> None:
        for tensor, held in self._weights:
            tensor.data = held.to(self._device)

    def _ends(self, block: nn.Module, inputs: Any, output: Any) -> None:
        for tensor, held in self._weights:
            tensor.data = held


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in _tensors(module))
