"""Crop and stitch: painting a large picture in windows of the size that a network was trained on.

A window that holds too little of what is known already is painted without regard to it.  So windows are taken where
the known part is large, what one has painted is known to the next, and the rest of the picture stays as it is to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of `[B, H, W, ...]` that lies in the window."""
        return array[:, self.top : self.top + self.height, self.left : self.left + self.width]


def windows(unknown: np.ndarray, side: int, most: float) -> Iterator[Window]:
    """The windows that cover all that is unknown, bool `[H, W]`, in the order in which they are to be painted.

    Each is `side` pixels wide and high, or as the picture where that is smaller.  Of those in which no more than the share
    `most` is unknown, the one with the most unknown comes next; where there is none, the one with the least.
    """
    left_over = unknown.copy()
    height, width = (min(side, length) for length in unknown.shape)
    stride = max(1, int(side * most))
    tops, lefts = (_places(length, side, stride) for length in unknown.shape)
    places = [Window(left, top, width, height) for top in tops for left in lefts]
    while left_over.any():
        counts = {window: int(window.of(left_over[None]).sum()) for window in places}
        some = [window for window in places if counts[window]]
        fit = [window for window in some if counts[window] <= most * width * height]
        chosen = max(fit, key=counts.__getitem__) if fit else min(some, key=counts.__getitem__)
        yield chosen
        chosen.of(left_over[None])[...] = False


def _places(length: int, side: int, stride: int) -> list[int]:
    """Where windows may begin along one axis: every `stride` pixels, and where the last ends with the picture."""
    last = max(0, length - side)
    return sorted({*range(0, last + 1, stride), last})
