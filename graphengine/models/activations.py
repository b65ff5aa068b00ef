"""What a network needs beside its weights while it works: bytes by formula, from its config and the size of its input.

The formulas count the tensors that live at the worst moment, as they were seen on tensors without memory with the configs
of the published models; they come within a twentieth of that for U-Nets and AutoencoderKL.  What a kernel takes for itself
is `Kernels`, measured on a CPU.  Nothing here imports torch.

    cells     places of a latent, height x width
    tokens    what a transformer reads, of the latent and of the prompt
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIB = 2**20
GATED, BESIDE = 16, 7
"""A gated feed-forward layer of a U-Net: its own tensors, and what else of the transformer lives meanwhile, in widths."""
TOKENS = 512
"""Tokens of a prompt where a family reads a long one."""
WIDTHS = {
    "AuraFlowTransformer2DModel": 30.0,
    "ChromaTransformer2DModel": 16.5,
    "FluxTransformer2DModel": 16.5,
    "Flux2Transformer2DModel": 26.0,
    "Lumina2Transformer2DModel": 23.0,
    "PixArtTransformer2DModel": 12.7,
    "QwenImageTransformer2DModel": 20.0,
    "SD3Transformer2DModel": 11.0,
    "SanaTransformer2DModel": 14.2,
    "ZImageTransformer2DModel": 19.0,
}
"""Tensors of the size tokens x width that live at the worst moment, by class of transformer."""
USUAL_WIDTHS = 20.0
ALONE = ("PixArtTransformer2DModel", "SanaTransformer2DModel")
"""Transformers that read the prompt by cross attention: it is not among their tokens."""
TEXT_WIDTHS = 16.0


@dataclass(frozen=True)
class Kernels:
    """What kernels take: a share of the tensors, some copies of the largest convolution's weights, and a rest in bytes."""

    share: float
    copies: float
    rest: int = 12 * MIB

    def __call__(self, tensors: float, convolution: float) -> int:
        return int(self.share * tensors + self.copies * convolution + self.rest)


HOST_DENOISER, HOST_AUTOENCODER = Kernels(1.5, 1.35), Kernels(1.2, 4.0)
"""Measured in a fresh process: convolutions of a CPU are given their weights and pictures in another order."""
DEVICE = Kernels(1.1, 1.0, 256 * MIB)
"""Of a device with memory of its own; not measured."""


def denoiser(
    network: str, config: Mapping[str, Any], size: tuple[int, int, int], width: int, steered: int = 0
) -> float:
    """Bytes of the tensors of one call.

    Args:
        network: class of the network.
        size: rows (prompts times pictures), and height and width of the latent.
        width: bytes of a number.
        steered: how many ControlNets add to its skips.
    """
    if "block_out_channels" in config:
        return _unet(config, size, width, steered)
    rows, high, wide = size
    patch = config.get("patch_size") or 1
    side = patch if isinstance(patch, int) and patch > 1 else 2
    tokens = (high // side) * (wide // side) if network != "SanaTransformer2DModel" else high * wide
    if network == "Flux2Transformer2DModel":
        tokens = high * wide
    if network not in ALONE:
        tokens += TOKENS
    return rows * tokens * _model_width(config) * width * WIDTHS.get(network, USUAL_WIDTHS)


def _model_width(config: Mapping[str, Any]) -> int:
    for name in ("dim", "hidden_size", "inner_dim"):
        if isinstance(config.get(name), int):
            return config[name]
    heads, head = config.get("num_attention_heads") or 24, config.get("attention_head_dim") or 64
    return int(heads) * int(head)


def _unet(config: Mapping[str, Any], size: tuple[int, int, int], width: int, steered: int) -> float:
    """The worst moment lies on the way up: skips of this level and of those above, and a transformer or a resnet."""
    rows, high, wide = size
    channels, blocks = _channels(config), list(config.get("down_block_types") or [])
    layers = config.get("layers_per_block") or 2
    per_level = [layers] * len(channels) if isinstance(layers, int) else list(layers)
    worst, above = 0.0, 0.0
    for level, count in enumerate(channels):
        cells = rows * max(1, high >> level) * max(1, wide >> level)
        entry = cells * (channels[level - 1] if level else channels[0])
        skips = entry + per_level[level] * cells * count
        attends = level < len(blocks) and "Attn" in str(blocks[level])
        inside = (GATED + BESIDE) if attends else 0
        deeper = channels[min(level + 1, len(channels) - 1)]
        resnet = 3 * (count + deeper) + count
        worst = max(worst, above + skips + max(inside * count, resnet) * cells)
        above += skips
    return (worst + 2 * steered * above) * width


def control(config: Mapping[str, Any], size: tuple[int, int, int], width: int) -> float:
    """Bytes of the tensors of one call of a ControlNet: half a U-Net."""
    return _unet(config, size, width, 0) if "block_out_channels" in config else 0.0


def autoencoder(config: Mapping[str, Any], pictures: tuple[int, int, int], width: int, encodes: bool = False) -> float:
    """Bytes of the tensors when so many pictures of a height and a width in pixels are decoded, or encoded."""
    batch, high, wide = pictures
    channels = _channels(config)
    worst = 0.0
    for level, count in enumerate(channels):
        cells = batch * max(1, high >> level) * max(1, wide >> level)
        near = channels[level - 1] if encodes and level else count
        before = near if encodes else channels[min(level + 1, len(channels) - 1)]
        worst = max(worst, cells * (4 * count + before))
    kind = str(config.get("_class_name"))
    return worst * width * (3 if "QwenImage" in kind else 1) + 3 * batch * high * wide * 4 * 2


def tile(config: Mapping[str, Any]) -> int:
    """Side in pixels of the tiles that an autoencoder works in."""
    side = config.get("sample_size") or 512
    return int(side[0] if isinstance(side, list | tuple) else side)


def text(config: Mapping[str, Any], width: int) -> float:
    """Bytes of the tensors when a prompt is encoded."""
    hidden = int(config.get("hidden_size") or config.get("d_model") or 768)
    tokens = min(int(config.get("max_position_embeddings") or TOKENS), TOKENS)
    return TEXT_WIDTHS * tokens * hidden * width


def convolution(config: Mapping[str, Any], width: int) -> float:
    """Bytes of the largest convolution: in a U-Net it also reads a skip, in an autoencoder it does not."""
    deepest = _channels(config)[-1] if _has_channels(config) else 0
    return 9 * deepest * deepest * width * (2 if "cross_attention_dim" in config else 1)


def _has_channels(config: Mapping[str, Any]) -> bool:
    return bool(config.get("block_out_channels") or config.get("decoder_block_out_channels") or config.get("dim_mult"))


def _channels(config: Mapping[str, Any]) -> list[int]:
    """Widths of the levels, the finest first."""
    told = config.get("block_out_channels") or config.get("decoder_block_out_channels")
    if told:
        return [int(count) for count in told]
    base = int(config.get("base_dim") or 128)
    return [base * int(factor) for factor in config.get("dim_mult") or [1, 2, 4, 4]]
