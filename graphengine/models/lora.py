"""Files of low-rank differences (LoRA; Hu et al. 2021): W + strength * (alpha / rank) * up @ down.

Two ways of naming are in use: kohya's, in which dots have become underscores (`lora_unet_down_blocks_0_..._to_q.lora_down`),
and peft's (`unet.down_blocks.0....to_q.lora_A`).  Both come out as (network, layer with underscores).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graphengine.errors import CheckpointError
from graphengine.models.weights import load_tensors, read_header

DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight")
UP = (".lora_up.weight", ".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight")
OTHERS = {
    ".hada_w1_a": "LoHa",
    ".lokr_w1": "LoKr",
    ".dora_scale": "DoRA",
    ".oft_blocks": "OFT",
    ".lora_magnitude_vector": "DoRA",
}
"""Relatives that are added in another way."""
NETWORKS = {
    "lora_unet_": "denoiser",
    "lora_transformer_": "denoiser",
    "unet.": "denoiser",
    "transformer.": "denoiser",
    "diffusion_model.": "denoiser",
    "lora_te1_text_model_": "text_encoder",
    "lora_te2_text_model_": "text_encoder_2",
    "lora_te_text_model_": "text_encoder",
    "text_encoder.text_model.": "text_encoder",
    "text_encoder_2.text_model.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
}
"""Beginnings of names, and the network that they mean."""


@dataclass(frozen=True, eq=False)
class Low:
    """One layer's difference: down `[r, in, ...]`, up `[out, r, ...]`, and the factor alpha / r."""

    name: str
    down: Tensor
    up: Tensor
    factor: float

    def difference(self, device: torch.device) -> Tensor:
        """up @ down, float32 `[out, in, ...]`, without the strength."""
        up, down = self.up.to(device, torch.float32), self.down.to(device, torch.float32)
        return (up.flatten(1) @ down.flatten(1) * self.factor).reshape(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the difference, known before it is made: two thin halves can have a product that fits nowhere."""
        return self.up.shape[0], *self.down.shape[1:]


def read(path: Path) -> dict[tuple[str, str], Low]:
    """The layers of a file by (network, layer).

    Raises:
        CheckpointError: it is damaged, of another kind, or no LoRA.
    """
    header = read_header(path)
    for name in header:
        for mark, kind in OTHERS.items():
            if mark in name:
                raise CheckpointError(f"{path.name} is a {kind}, not a plain LoRA; only plain ones can be added.")
    tensors = load_tensors([path], None)
    found: dict[tuple[str, str], Low] = {}
    for name, down in tensors.items():
        ending = next((ending for ending in DOWN if name.endswith(ending)), None)
        if ending is None:
            continue
        stem = name.removesuffix(ending)
        up = tensors.get(stem + UP[DOWN.index(ending)])
        if up is None or not _fit(down, up):
            raise CheckpointError(f"{path.name}: {stem} has no second half that fits its first.")
        alpha = tensors.get(f"{stem}.alpha")
        if alpha is not None and not (alpha.numel() == 1 and math.isfinite(alpha)):
            raise CheckpointError(f"{path.name}: the alpha of {stem} is no number.")
        factor = float(alpha) / down.shape[0] if alpha is not None else 1.0
        found[_place(stem)] = Low(stem, down, up, factor)
    if not found:
        seen = ", ".join(list(header)[:3]) or "nothing"
        raise CheckpointError(f"{path.name} is no LoRA: it holds {seen}, and no pair of low-rank weights.")
    return found


def _fit(down: Tensor, up: Tensor) -> bool:
    """Whether two halves can be multiplied."""
    if min(down.ndim, up.ndim) < 2 or not (down.is_floating_point() and up.is_floating_point()):
        return False
    return down.shape[0] == up.flatten(1).shape[1] > 0


def _place(stem: str) -> tuple[str, str]:
    name = stem.removeprefix("base_model.model.")
    for start, network in NETWORKS.items():
        if name.startswith(start):
            return network, name.removeprefix(start).removesuffix(".processor").replace(".", "_")
    return "denoiser", name.replace(".", "_")
