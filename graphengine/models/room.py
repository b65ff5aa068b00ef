"""Memory for many tensors, had from the system in one piece.

Of what loading a model costs on a CPU, most is the system's work for fresh memory, a page at a time, each when it is first
written to.  All pages of one large piece asked for at once cost a fifth less.  (Large pages would cost less still on some
machines, and several times as much on virtual ones, which have to be given them first.)
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FROM = 32 * 2**20
"""Bytes from which on it is worth it."""
ALIGNED = 64
POPULATE_WRITE = 23
"""Linux' number for having pages at once (5.14 and later); Python has no name for it."""


def copied(tensors: Mapping[str, Tensor], formats: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """The tensors, those that `formats` names copied into these number formats; the others as they are."""
    ends: dict[str, int] = {}
    size = 0
    for name, dtype in formats.items():
        ends[name] = size = size + _aligned(tensors[name].numel() * dtype.itemsize)
    memory = _memory(size) if size >= FROM else None
    made = dict(tensors)
    for name, dtype in formats.items():
        tensor = tensors[name]
        if memory is None or not tensor.numel():
            made[name] = tensor.to(dtype, copy=True)
            continue
        start = ends[name] - _aligned(tensor.numel() * dtype.itemsize)
        place = torch.frombuffer(memory, dtype=dtype, count=tensor.numel(), offset=start)
        made[name] = place.view(tensor.shape).copy_(tensor)
    return made


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _memory(size: int) -> Any:
    """So many bytes that are there; None where the system knows no such thing.  They go with the last tensor in them."""
    if sys.platform != "linux":
        return None
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(POPULATE_WRITE)
    except OSError:
        memory.close()
        return None
    return memory
