"""The published models that a transformer in a file belongs to, and its configs: facts of the model under what shapes tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from graphengine.errors import CheckpointError
from graphengine.models.identify import Identity
from graphengine.models.original_names import renamed_shapes, table_of
from graphengine.models.part_source import published
from graphengine.models.transformer_shapes import derived
from graphengine.models.weights import TensorInfo

TRANSFORMERS = {
    "aura_flow": ("aura_flow",),
    "chroma": ("chroma",),
    "flux_2_dev": ("flux_2_dev", "flux_2"),
    "flux_2_klein_4b": ("flux_2_klein_4b",),
    "flux_2_klein_9b": ("flux_2_klein_9b",),
    "flux_dev": ("flux_dev", "flux_fill", "flux_depth", "flux_guided"),
    "flux_schnell": ("flux_schnell", "flux"),
    "lumina_2": ("lumina_2",),
    "pixart_alpha": ("pixart_alpha",),
    "pixart_sigma": ("pixart_sigma",),
    "qwen_image": ("qwen_image", "qwen_image_layered"),
    "sana_0_6b": ("sana_0_6b",),
    "sana_1_6b": ("sana_1_6b", "sana_4_8b", "sana_sprint_1_6b", "sana"),
    "sd3": ("sd3_medium", "sd35_medium", "sd35_large", "stable_diffusion_3"),
    "z_image": ("z_image",),
}
"""The variants that share the facts of a published model."""
MODEL_OF = {variant: model for model, variants in TRANSFORMERS.items() for variant in variants}
STANDARDS = {"flux_dev": "flux", "flux_schnell": "flux", "pixart_alpha": "pixart", "pixart_sigma": "pixart"}
STANDARDS |= {"sana_0_6b": "sana", "sana_1_6b": "sana"}
"""The kind of a model's prompts, where it is not called like the model."""
SCALED = (".scale_weight", ".weight_scale", ".weight_scale_2", ".comfy_quant", ".absmax", ".quant_map", "scaled_fp8")
"""How the names of numbers end that other tensors must be multiplied with."""


def standard(model: str) -> str:
    """The kind of the prompts that a published model reads."""
    return STANDARDS.get(model, model)


def check_plain_numbers(names: Iterable[str], where: str) -> None:
    """Refuse tensors that are not what they seem without others.  Raises CheckpointError."""
    if packed := next((name for name in names if name.endswith(SCALED)), None):
        raise CheckpointError(
            f"{where} holds scaled numbers of few bits ({packed}), which are not read; "
            "try the file with 16 bits, with plain fp8 numbers, or a GGUF."
        )


def model_of(prompts: str | None, config: Mapping[str, Any]) -> str | None:
    """The published model whose facts a denoiser shares, by the kind of its prompts and its config."""
    if prompts == "flux":
        return "flux_dev" if config.get("guidance_embeds") else "flux_schnell"
    return next((model for model, kind in STANDARDS.items() if kind == prompts), prompts)


def transformer(
    found: Identity, header: Mapping[str, TensorInfo], prefix: str, name: str
) -> tuple[str, dict[str, dict[str, Any]]] | None:
    """The published model of a transformer, and its config; None when none is known.

    Raises:
        CheckpointError: its shapes make no sense, or its numbers are packed in a way that is not read.
    """
    model, table = MODEL_OF.get(found.variant), table_of(found.family, found.layout)
    if model is None or table is None:
        return None
    own = {key.removeprefix(prefix): info.shape for key, info in header.items() if key.startswith(prefix)}
    check_plain_numbers(own, name)
    facts = published(model)["transformer"]
    try:
        return model, {"transformer": derived(facts, renamed_shapes(table, own))}
    except CheckpointError as error:
        raise CheckpointError(f"{name} is no whole {found.family} ({found.variant}): {error}") from None
