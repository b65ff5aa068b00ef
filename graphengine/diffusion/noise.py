"""Noise that is the same on every device and at every place of a batch: drawn on the CPU, one generator a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class NoiseSource:
    """Standard normal noise for a batch; row i comes from its own generator, seeded with `seeds[i]`.

    Args:
        seeds: one 64-bit seed per picture.
        shape: of one picture's latent, without the batch.
        device, dtype: where the noise goes; it is drawn on the CPU in float32 first.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], device: str | torch.device, dtype: torch.dtype):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape, self._device, self._dtype = shape, device, dtype

    def __call__(self) -> Tensor:
        """The next draw, `[len(seeds), *shape]`."""
        rows = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        return torch.stack(rows).to(self._device, self._dtype)


def batch_seeds(seed: int, count: int) -> list[int]:
    """Seeds of a batch: picture i has `seed + i`, so it equals a single picture with that seed; wraps at 2^64."""
    return [(seed + index) % 2**64 for index in range(count)]
