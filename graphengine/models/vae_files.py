"""Autoencoders in files: what they are follows from their tensors, and how their latents are scaled from the caller.

The autoencoders of some models have the very same tensors; where a denoiser lies in the same file, it says which is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphengine.errors import CheckpointError
from graphengine.models.checkpoint import AUTOENCODERS
from graphengine.models.identify import Match, matches
from graphengine.models.part_source import PartSource, published
from graphengine.models.published import MODEL_OF
from graphengine.models.single_file import MODELS
from graphengine.models.weights import TensorInfo

KINDS = {kind: facts for facts, kind in AUTOENCODERS.items() if facts[0] == "AutoencoderKL"}
"""Autoencoders that look alike: class, channels, scaling, shift and widest layer, by the kind of their latents."""
ONLY = {"dc_ae": "sana_1_6b", "flux_2": "flux_2_dev", "wan_2_1": "qwen_image"}
"""Autoencoders of one model that is driven here, by their variant."""
UNNAMED = ("sana", "original")
"""An autoencoder for which there is no table of names."""


def vae_source(path: Path, header: Mapping[str, TensorInfo], kind: str) -> PartSource | None:
    """The autoencoder in a file; None where there is none.

    Raises:
        CheckpointError: it cannot be told what it is, or is not what is asked for.
    """
    found = {match.row.head[0]: match for match in reversed(matches(header))}
    match = found.get("vae")
    if match is None:
        return None
    _, family, layout, _ = match.row.head
    if match.variant in ONLY and (family, layout) != UNNAMED:
        config = published(ONLY[match.variant])["vae"]
        return PartSource(path, "vae", "", {"vae": config}, match.prefix, names=(family, layout))
    denoiser = found.get("denoiser")
    if kind == "auto" and denoiser is not None:
        kind = _of(denoiser)
    return PartSource(path, "vae", "", {"vae": _config(path, header, match.prefix, kind)}, match.prefix)


def _of(denoiser: Match) -> str:
    """The kind of the latents of a denoiser; auto where it is not known."""
    vae = published(MODEL_OF.get(denoiser.variant) or MODELS.get(denoiser.variant, "")).get("vae", {})
    facts = vae.get("latent_channels"), vae.get("scaling_factor")
    return next((kind for kind, (_, channels, scaling, *_) in KINDS.items() if (channels, scaling) == facts), "auto")


def _config(path: Path, header: Mapping[str, TensorInfo], prefix: str, kind: str) -> dict[str, Any]:
    entry = header.get(f"{prefix}decoder.conv_in.weight")
    channels, widest = (entry.shape[1], entry.shape[0]) if entry and len(entry.shape) == 4 else (0, 0)
    fits = [each for each, facts in KINDS.items() if (facts[1], facts[4]) == (channels, widest)]
    levels = [
        name for name in header if name.startswith((f"{prefix}encoder.down.3.", f"{prefix}encoder.down_blocks.3."))
    ]
    if not fits or not levels:
        raise CheckpointError(f"{path.name} is no VAE that can be loaded from a file; load it from a diffusers folder.")
    if kind not in fits:
        asked = f"not {kind}" if kind != "auto" else "which look alike; set `kind`"
        raise CheckpointError(f"{path.name} holds a VAE with {channels} channels, of {' or '.join(fits)}, {asked}.")
    _, _, scaling, shift, _ = KINDS[kind]
    quantised = f"{prefix}quant_conv.weight" in header
    return published("sdxl" if kind == "sdxl" else "sd1")["vae"] | {
        "latent_channels": channels,
        "scaling_factor": scaling,
        "shift_factor": shift or None,
        "use_quant_conv": quantised,
        "use_post_quant_conv": quantised,
    }
