"""The names that tensors have in single files of the Stable Diffusion family, and those that diffusers gives them.

A single file keeps the names of the code that it was trained with (latent-diffusion, OpenCLIP).  The tables here
are made from a network's config, because blocks are numbered in a row there and by level here.

Glossary
    table    pairs (start of a name in the file, start of the name in diffusers); the longest match wins
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Table = dict[str, str]

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.1": "mid_block.attentions.0",
}
VAE_RESNET = {"nin_shortcut": "conv_shortcut", "norm1": "norm1", "norm2": "norm2", "conv1": "conv1", "conv2": "conv2"}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OPEN_CLIP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding": "embeddings.token_embedding",
    "ln_final": "final_layer_norm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def unet_table(config: Mapping[str, Any]) -> Table:
    """Names of a U-Net for a config of UNet2DConditionModel."""
    table = dict(UNET_ENDS)
    layers, last = int(config["layers_per_block"]), len(config["block_out_channels"]) - 1
    number = 1
    for level, kind in enumerate(config["down_block_types"]):
        for layer in range(layers):
            table |= _block(f"input_blocks.{number}", f"down_blocks.{level}", layer, "Attn" in kind)
            number += 1
        if level < last:
            table[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            number += 1
    for place, layer in ((0, 0), (2, 1)):
        table |= _inside(f"middle_block.{place}", f"mid_block.resnets.{layer}", RESNET)
    number = 0
    for level, kind in enumerate(config["up_block_types"]):
        for layer in range(layers + 1):
            attends = "Attn" in kind
            table |= _block(f"output_blocks.{number}", f"up_blocks.{level}", layer, attends)
            if layer == layers and level < last:
                table[f"output_blocks.{number}.{1 + attends}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
            number += 1
    return table


def _block(file: str, here: str, layer: int, attends: bool) -> Table:
    table = _inside(f"{file}.0", f"{here}.resnets.{layer}", RESNET)
    if attends:
        table[f"{file}.1"] = f"{here}.attentions.{layer}"
    return table


def _inside(file: str, here: str, names: Mapping[str, str]) -> Table:
    return {f"{file}.{old}": f"{here}.{new}" for old, new in names.items()}


def vae_table(config: Mapping[str, Any]) -> Table:
    """Names of an autoencoder for a config of AutoencoderKL."""
    table = {"encoder.quant_conv": "quant_conv", "decoder.post_quant_conv": "post_quant_conv", "bn": "bn"}
    table |= {name: name for name in ("quant_conv", "post_quant_conv")}
    layers, levels = int(config["layers_per_block"]), len(config["block_out_channels"])
    for side, down, count in (("encoder", True, layers), ("decoder", False, layers + 1)):
        for end in ("conv_in", "conv_out"):
            table[f"{side}.{end}"] = f"{side}.{end}"
        table[f"{side}.norm_out"] = f"{side}.conv_norm_out"
        for level in range(levels):
            file = f"{side}.{'down' if down else 'up'}.{level}"
            here = f"{side}.{'down' if down else 'up'}_blocks.{level if down else levels - 1 - level}"
            for layer in range(count):
                table |= _inside(f"{file}.block.{layer}", f"{here}.resnets.{layer}", VAE_RESNET)
            step = ("downsample", "downsamplers") if down else ("upsample", "upsamplers")
            table[f"{file}.{step[0]}.conv"] = f"{here}.{step[1]}.0.conv"
        for layer in (0, 1):
            table |= _inside(f"{side}.mid.block_{layer + 1}", f"{side}.mid_block.resnets.{layer}", VAE_RESNET)
        table |= _inside(f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0", VAE_ATTENTION)
    return table


def renamed(tensors: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Tensors by diffusers' names; those that the table does not know are left out.

    A 1 x 1 convolution of an autoencoder's attention becomes the linear map that it is.
    """
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem = name
        while stem and stem not in table:
            stem = stem.rpartition(".")[0]
        if stem:
            new = table[stem] + name[len(stem) :]
            flat = ".mid_block.attentions." in new and tensor.ndim == 4
            made[new] = tensor[:, :, 0, 0] if flat else tensor
    return made


def open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An OpenCLIP text encoder in the names of CLIPTextModel(WithProjection): joint projections are split in three."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "text_projection":
            made["text_projection.weight"] = tensor.T
            continue
        if name.startswith("transformer.resblocks."):
            number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
            here = f"text_model.encoder.layers.{number}"
            if rest.startswith("attn.in_proj_"):
                made |= _split(f"{here}.self_attn", rest.removeprefix("attn.in_proj_"), tensor)
                continue
        else:
            here, rest = "text_model", name
        for old, new in OPEN_CLIP.items():
            if rest == old or rest.startswith(f"{old}."):
                made[f"{here}.{new}{rest[len(old) :]}"] = tensor
    return made


def _split(here: str, what: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Weight or bias of the joint projection as those of queries, keys and values."""
    third = tensor.shape[0] // 3
    for place, letter in enumerate("qkv"):
        yield f"{here}.{letter}_proj.{what}", tensor[place * third : (place + 1) * third]
