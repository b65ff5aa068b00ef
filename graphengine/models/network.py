"""Networks out of a config and tensors: made without memory, then given the weights as they lie in the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from graphengine.errors import CheckpointError


def diffusers_network(
    model_class: Any, config: Mapping[str, Any], tensors: dict[str, Tensor], where: str, device: str
) -> Any:
    """A diffusers model with its weights, in evaluation mode.

    Raises:
        CheckpointError: the weights do not fit the config.
    """
    with torch.device("meta"):
        model = model_class.from_config(dict(config))
    _fill(model, tensors, where)
    for name, buffer in model.named_buffers():
        if buffer.is_meta:  # what is computed and not stored, such as positional embeddings
            _real_buffers(model, model_class, config, name)
            break
    layout = torch.channels_last if any(p.ndim == 4 for p in model.parameters()) else torch.preserve_format
    return model.to(device=device, memory_format=layout).eval().requires_grad_(False)


def _real_buffers(model: Any, model_class: Any, config: Mapping[str, Any], name: str) -> None:
    """Compute the buffers that no file holds: a second model is made for them, and dropped."""
    real = dict(model_class.from_config(dict(config)).named_buffers())
    for path, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            owner, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(owner), leaf, real[path])


def _fill(model: Any, tensors: dict[str, Tensor], where: str) -> None:
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        told = str(error).split("\n")
        raise CheckpointError(f"{where} does not fit its config: {' '.join(told[:3])}") from error


def transformers_network(
    model_class: Any, config: Any, tensors: dict[str, Tensor], where: str, device: str, dtype: torch.dtype
) -> Any:
    """A transformers model with its weights, in evaluation mode.

    Raises:
        CheckpointError: weights are missing or have other shapes.
    """
    try:
        model, told = model_class.from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, local_files_only=True
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{where} does not fit its config: {str(error)[:300]}") from error
    absent = sorted(told["missing_keys"]) + [str(key) for key in told["mismatched_keys"]]
    if absent:
        raise CheckpointError(f"{where} does not fit its config: {', '.join(absent[:3])} missing or of another shape.")
    return model.to(device).eval().requires_grad_(False)
