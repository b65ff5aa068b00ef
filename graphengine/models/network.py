"""Networks out of a config and tensors: made without memory, then given the weights as they lie in the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from graphengine.errors import CheckpointError

SMALL = 50_000_000
"""Parameters of a network whose copy costs nothing."""


class _Unallocated(TorchFunctionMode):
    """Parameters begin without memory; buffers, which are computed and lie in no file, are made as ever."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))


def diffusers_network(
    model_class: Any, config: Mapping[str, Any], tensors: dict[str, Tensor], where: str, device: str
) -> Any:
    """A diffusers model with its weights, in evaluation mode.

    Raises:
        CheckpointError: the weights do not fit the config.
    """
    with _Unallocated():
        model = model_class.from_config(dict(config))
    _fill(model, tensors, where)
    layout = torch.channels_last if _gains(model, device) else torch.preserve_format
    return model.to(device=device, memory_format=layout).eval().requires_grad_(False)


def _gains(model: Any, device: str) -> bool:
    """Whether channels-last convolutions are worth the copy of the weights: on a CPU for small networks only."""
    size = sum(parameter.numel() for parameter in model.parameters())
    ranks = {parameter.ndim for parameter in model.parameters()}
    return 4 in ranks and 5 not in ranks and (device != "cpu" or size < SMALL)  # films have rank 5, and no such layout


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
