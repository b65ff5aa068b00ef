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
PROMPTS = {
    ("stable_diffusion", 768): "sd1",
    ("stable_diffusion", 1024): "sd2",
    ("stable_diffusion_xl", 2048): "sdxl",
    ("stable_diffusion_xl", 1280): "sdxl_refiner",
    ("stable_diffusion_3", 4096): "sd3",
    ("flux", 4096): "flux",
    ("aura_flow", 2048): "aura_flow",
    ("chroma", 4096): "chroma",
    ("flux_2", 7680): "flux_2_klein_4b",
    ("flux_2", 12288): "flux_2_klein_9b",
    ("flux_2", 15360): "flux_2_dev",
    ("lumina_2", 2304): "lumina_2",
    ("pixart", 4096): "pixart",
    ("qwen_image", 3584): "qwen_image",
    ("sana", 2304): "sana",
    ("z_image", 2560): "z_image",
}
"""Standards of prompts: a family, and the width of the text features that its denoiser reads."""
FAMILY_OF = {standard: family for (family, _), standard in PROMPTS.items()}
VAES = {
    "flux": "flux",
    "sdxl": "stable_diffusion_xl",
    "AutoencoderKL": "stable_diffusion",
    "AutoencoderDC": "sana",
    "AutoencoderKLFlux2": "flux_2",
    "AutoencoderKLQwenImage": "qwen_image",
}
"""The module that drives an autoencoder by itself, by the kind of its latents or else by its class."""


def family_of(denoiser: str, config: Mapping[str, Any]) -> str | None:
    """The family of a denoiser's class and config; None when it is not known."""
    if denoiser == "UNet2DConditionModel" and config.get("addition_embed_type") == "text_time":
        return "stable_diffusion_xl"
    if denoiser == "Transformer2DModel" and config.get("norm_type") == "ada_norm_single":
        return "pixart"
    return FAMILIES.get(denoiser)


def prompts_of(family: str, config: Mapping[str, Any]) -> str | None:
    """The standard of the prompts that a denoiser reads; None when it is not known."""
    names = ("cap_feat_dim", "caption_channels", "joint_attention_dim", "cross_attention_dim")
    width = next((config[name] for name in names if config.get(name)), None)
    return PROMPTS.get((family, width)) if isinstance(width, int) else None
