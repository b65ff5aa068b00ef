"""One module per family of models, found by the class of its denoiser.

Adding a family is a module here and a line in `FAMILIES`; nothing outside this folder names a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FAMILIES = {
    "AuraFlowTransformer2DModel": "aura_flow",
    "ChromaTransformer2DModel": "chroma",
    "Flux2Transformer2DModel": "flux_2",
    "FluxTransformer2DModel": "flux",
    "Lumina2Transformer2DModel": "lumina_2",
    "PixArtTransformer2DModel": "pixart",
    "QwenImageTransformer2DModel": "qwen_image",
    "SD3Transformer2DModel": "stable_diffusion_3",
    "SanaTransformer2DModel": "sana",
    "UNet2DConditionModel": "stable_diffusion",
    "ZImageTransformer2DModel": "z_image",
}
"""The module that drives a class of denoiser."""


def family_of(denoiser: str, config: Mapping[str, Any]) -> str | None:
    """The family of a denoiser's class and config; None when it is not known."""
    if denoiser == "UNet2DConditionModel" and config.get("addition_embed_type") == "text_time":
        return "stable_diffusion_xl"
    if denoiser == "Transformer2DModel" and config.get("norm_type") == "ada_norm_single":
        return "pixart"
    return FAMILIES.get(denoiser)
