"""The four roles with typed ports, played by the blocks that the overlay names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphengine.blocks import ModularBlocks, ModularEmbeddings, ModularLatents, ModularPictures, ModularState
from graphengine.models.modular.ports import named, role
from graphengine.models.modular.run import Call, opened, run
from graphengine.models.modular.shown import shown

BOTH = 2.0
"""A scale at which guiders ask for both prompts; any but 1 does."""


def encode_text(ctx: Any, handle: ModularBlocks, given: Mapping[str, Any]) -> ModularEmbeddings:
    """Embeddings of what is given by port: `prompt`, `negative`, `image`.

    Both prompts are encoded whatever the guider's scale, which is chosen later.  Raises ValueError and CheckpointError.
    """
    made = _play(ctx, handle, "text", given, scale=BOTH)
    return ModularEmbeddings(made.pipeline, made.values, made.groups)


def encode_pictures(ctx: Any, handle: ModularBlocks, given: Mapping[str, Any], seed: int) -> ModularPictures:
    """Latents of what is given by port: `image`, `mask`, `width`, `height`, `frames`.  Raises as `encode_text` does."""
    made = _play(ctx, handle, "pictures", given, seed=seed)
    return ModularPictures(made.pipeline, made.values, made.groups)


def denoise(
    ctx: Any, handle: ModularBlocks, given: Mapping[str, Any], states: tuple[ModularState, ...], seed: int
) -> ModularLatents:
    """Latents that are drawn by what is given by port, from states.  Raises as `encode_text` does."""
    made = _play(ctx, handle, "denoise", given, states, seed, int(given.get("count") or 1))
    return ModularLatents(made.pipeline, made.values, made.groups)


def decode(ctx: Any, handle: ModularBlocks, latents: ModularLatents) -> np.ndarray:
    """Pixels `[N, H, W, C]` in 0..1 of latents.  Raises as `encode_text` does."""
    made = _play(ctx, handle, "decode", {}, (latents,))
    return shown(made, role(handle.pipeline, "decode", handle.checkpoint).gives)


def _play(
    ctx: Any,
    handle: ModularBlocks,
    name: str,
    given: Mapping[str, Any],
    states: tuple[ModularState, ...] = (),
    seed: int | None = None,
    count: int = 1,
    scale: float | None = None,
) -> ModularState:
    """The state after the block of a role; `scale` is the guider's unless one is given."""
    part, pipeline = role(handle.pipeline, name, handle.checkpoint), opened(ctx, handle)
    inputs, wanted = named(part, given, pipeline.block(part.block).input_names)
    return run(ctx, pipeline, Call(part.block, inputs, {}, states, seed, count, scale if wanted is None else wanted))
