"""Latents as transformers read them: every patch of p x p cells is a token, and its channels lie cell by cell."""

from __future__ import annotations

import torch
from torch import Tensor


def patch_count(shape: tuple[int, ...], patch: int = 2) -> int:
    """How many tokens latents `[B, C, h, w]` of this shape make.  Raises ValueError when they cannot be cut up."""
    height, width = shape[-2:]
    if height % patch or width % patch:
        raise ValueError(
            f"latents of {width} x {height} cells cannot be cut into patches of {patch} x {patch}; "
            f"make the picture's width and height multiples of {patch} times the autoencoder's factor."
        )
    return (height // patch) * (width // patch)


def pack(x: Tensor, patch: int = 2) -> Tensor:
    """Latents `[B, C, h, w]` as tokens `[B, h w / p^2, C p^2]`, in rows; within a token channel, row, column."""
    return torch.nn.functional.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, shape: tuple[int, ...], patch: int = 2) -> Tensor:
    """The inverse of `pack` for latents of this shape."""
    grid = tokens.transpose(1, 2).unflatten(2, (shape[-2] // patch, shape[-1] // patch))
    return torch.nn.functional.pixel_shuffle(grid, patch)
