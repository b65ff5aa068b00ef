"""Networks on a CPU whose large matrices stay in half precision, and are widened one at a time as their layers run.

A model that fills a good part of the memory takes half of it this way, and is loaded in less time, for the numbers of a
file need not be written twice as wide.  Results are the same to the bit: a layer sees the numbers that it would have seen.
Each pass has to widen them anew, which is little beside what a network of that size computes.

Glossary
    narrow    a matrix as the file has it, with 16 bits to a number
    room      memory that the widened matrices of a network share, as large as the largest
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphengine.models import weights
from graphengine.models.room import copied

NARROW = {torch.float16: "F16", torch.bfloat16: "BF16"}
"""Formats of 16 bits, and their names in headers."""


class NarrowSource:
    """A source whose large matrices come as the file has them; everything else is converted."""

    def __init__(self, source: Any):
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Tensors of a part, in memory of their own: the file may change or go while the network is used."""
        found = self._source.tensors(part, None)
        return copied(found, {name: _format(tensor, dtype) for name, tensor in found.items()})


def _stays(tensor: Tensor) -> bool:
    return weights.stays_narrow(tuple(tensor.shape), NARROW.get(tensor.dtype, ""))


def _format(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() and not _stays(tensor) else tensor.dtype


def widen_as_it_runs(network: nn.Module, dtype: torch.dtype) -> None:
    """Have a network's narrow layers widened as they run, and every other narrow parameter at once."""
    room = _Room(dtype)
    for layer in network.modules():
        kind = {nn.Linear: NarrowLinear, nn.Conv2d: NarrowConv2d}.get(type(layer))
        for name, parameter in layer.named_parameters(recurse=False):
            if kind and name == "weight" and _stays(parameter):
                layer.__class__ = kind
                vars(layer)["room"] = room
            elif parameter.dtype in NARROW:
                parameter.data = parameter.data.to(dtype)


def dtype_of(layer: nn.Module) -> torch.dtype:
    """The number format that a layer computes in."""
    return layer.room.dtype if isinstance(layer, NarrowLinear | NarrowConv2d) else layer.weight.dtype  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]


class _Room:
    """Where a layer's weight is widened to; it grows to the largest, and is then used over and over.

    Copies of a network share it, for no two run at once.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self._memory = torch.empty(0, dtype=dtype)

    def widened(self, weight: Tensor, input: Tensor) -> Tensor:
        """A weight in the format that is computed in; one that a patch has made is so already."""
        if weight.dtype == self.dtype:
            return weight
        if torch.is_grad_enabled() and input.requires_grad:  # the way back will need it once more
            return weight.to(self.dtype)
        if self._memory.numel() < weight.numel():
            self._memory = torch.empty(weight.numel(), dtype=self.dtype)
        return self._memory.as_strided(weight.shape, weight.stride()).copy_(weight)  # the layout decides on the kernel

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class NarrowLinear(nn.Linear):
    """A linear layer that widens its weight when it runs."""

    room: _Room

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.room.widened(self.weight, input), self.bias)


class NarrowConv2d(nn.Conv2d):
    """A convolution that widens its weight when it runs."""

    room: _Room

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.room.widened(self.weight, input), self.bias)
