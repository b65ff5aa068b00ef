"""Finding out whether a node wrote into its inputs.

numpy arrays in values are read-only, so writing into one already fails.  torch counts in-place changes of a tensor,
but not those made through `.numpy()`, so small tensors are also summed before and after.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from graphengine.values import arrays

SUM_LIMIT = 16 * 2**20


class Guard:
    """Remembers the state of all tensors among a node's inputs."""

    def __init__(self, inputs: Mapping[str, Any]):
        self._before = [
            (name, tensor, _state(tensor))
            for name, value in inputs.items()
            for tensor in arrays(value)
            if hasattr(tensor, "_version")
        ]

    def changed(self) -> str | None:
        """The name of an input that is not what it was, or None."""
        return next((name for name, tensor, before in self._before if _state(tensor) != before), None)


def _state(tensor: Any) -> tuple[int, int]:
    version = 0 if tensor.is_inference() else tensor._version
    small = tensor.device.type == "cpu" and tensor.nbytes <= SUM_LIMIT
    data = tensor.detach().contiguous().flatten().view(_bytes()).numpy() if small and tensor.numel() else b""
    return version, zlib.crc32(data)


def _bytes() -> Any:
    import torch

    return torch.uint8
