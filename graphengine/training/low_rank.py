"""Low-rank differences of a network's weights (LoRA; Hu et al. 2021) that can be trained, and their files.

Glossary
    lows   the differences as a state: `<layer>.down` `[rank, in]` and `<layer>.up` `[out, rank]`
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

Lows = Mapping[str, Tensor]
DOWN, UP = "lora_A.weight", "lora_B.weight"


class LowRank(nn.Module):
    """A difference `up @ down` that is added to a weight `[out, in, ...]`; at first it is zero."""

    def __init__(self, shape: torch.Size, rank: int):
        super().__init__()
        rest = shape[1:].numel()
        self.down = nn.Parameter(torch.randn(rank, rest) / rest**0.5)
        self.up = nn.Parameter(torch.zeros(shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def adapted(network: nn.Module, rank: int) -> tuple[nn.Module, nn.ModuleDict]:
    """A copy of a network whose linear and convolution layers have low-rank differences, and those by layer.

    They begin as nothing, and only they are trained.  The copy is in full precision.
    """
    made = copy.deepcopy(network).float().requires_grad_(False)
    found = nn.ModuleDict()
    for name, layer in list(made.named_modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            low = LowRank(layer.weight.shape, rank)
            parametrize.register_parametrization(layer, "weight", low)
            found[_state_name(name)] = low
    return made, found


def write_lora(network: nn.Module, lows: Lows, path: Path) -> None:
    """Write differences for a denoiser's network in peft's names, half precision."""
    part = "unet" if "UNet" in type(network).__name__ else "transformer"
    tensors: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        stem = _state_name(name)
        if f"{stem}.up" in lows:
            down, up = lows[f"{stem}.down"], lows[f"{stem}.up"]
            shape: Any = layer.weight.shape
            tensors[f"{part}.{name}.{DOWN}"] = down.reshape(len(down), *shape[1:]).half().contiguous()
            tensors[f"{part}.{name}.{UP}"] = up.reshape(*up.shape, *[1] * (len(shape) - 2)).half().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def _state_name(layer: str) -> str:
    return layer.replace(".", "_")  # a module's name has no dots
