"""Finding out whether a node wrote into its inputs.

numpy arrays in values are read-only, so writing into one fails on the spot, unless the node reaches past numpy; torch
counts in-place changes of a tensor, but not those made through `.numpy()`.  So both are also summed before and after:
small ones whole, of large ones a sample.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from graphengine.values import arrays

SUM_LIMIT = 4 * 2**20


class Guard:
    """Remembers the state of all arrays among a node's inputs."""

    def __init__(self, inputs: Mapping[str, Any]):
        self._before = [(name, array, _state(array)) for name, value in inputs.items() for array in arrays(value)]

    def changed(self) -> str | None:
        """The name of an input that is not what it was, or None."""
        return next((name for name, array, before in self._before if _state(array) != before), None)


def _state(array: Any) -> tuple[int, int]:
    """A number that in-place changes count up, where there is one, and a sum of the bytes."""
    if not hasattr(array, "_version"):
        return 0, _sum(array)
    version = 0 if array.is_inference() else array._version
    if array.device.type != "cpu" or not array.numel():
        return version, 0
    return version, _sum(array.detach().contiguous().flatten().view(_bytes()).numpy())


def _sum(array: Any) -> int:
    flat = array.reshape(-1)
    if array.nbytes > SUM_LIMIT:
        flat = flat[:: array.nbytes // SUM_LIMIT + 1].copy()
    return zlib.crc32(flat)


def _bytes() -> Any:
    import torch

    return torch.uint8
