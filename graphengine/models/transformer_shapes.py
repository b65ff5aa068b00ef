"""What the shapes of a network's tensors say of its config: a table for each class, in the names of diffusers.

An entry is read as a sentence of shapes.  `name[1]` is a side of a tensor, `#blocks` how many blocks there are, `?name`
whether a tensor is there, `/` divides by a number, a literal `{fact}` or another side, and `root` is of a square.  What no shape tells
(heads of a fixed width, axes of positions) are literal facts of the published model, in `configs/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from graphengine.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
SIDE = re.compile(r"(?P<name>.+)\[(?P<side>\d)\]")
HEADS = "attn.norm_q.weight[0]"
CLIP = {
    "vocab_size": "embeddings.token_embedding.weight[0]",
    "hidden_size": "embeddings.token_embedding.weight[1]",
    "max_position_embeddings": "embeddings.position_embedding.weight[0]",
    "intermediate_size": "encoder.layers.0.mlp.fc1.weight[0]",
    "num_hidden_layers": "#encoder.layers",
    "num_attention_heads": "embeddings.token_embedding.weight[1] / 64",
}
RELATIVE = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
T5 = {
    "vocab_size": "shared.weight[0]",
    "d_model": "shared.weight[1]",
    "d_ff": "encoder.block.0.layer.1.DenseReluDense.wi_0.weight[0]",
    "d_kv": f"encoder.block.0.layer.0.SelfAttention.q.weight[0] / {RELATIVE}[1]",
    "num_heads": f"{RELATIVE}[1]",
    "num_layers": "#encoder.block",
    "relative_attention_num_buckets": f"{RELATIVE}[0]",
}
TABLES: dict[str, dict[str, str]] = {
    "AuraFlowTransformer2DModel": {
        "in_channels": "pos_embed.proj.weight[1] / 4",
        "out_channels": "proj_out.weight[0] / 4",
        "num_mmdit_layers": "#joint_transformer_blocks",
        "num_single_dit_layers": "#single_transformer_blocks",
        "num_attention_heads": "pos_embed.proj.weight[0] / {attention_head_dim}",
        "joint_attention_dim": "context_embedder.weight[1]",
        "caption_projection_dim": "context_embedder.weight[0]",
        "pos_embed_max_size": "pos_embed.pos_embed[1]",
    },
    "CLIPTextModel": CLIP,
    "CLIPTextModelWithProjection": CLIP | {"projection_dim": "text_projection.weight[0]"},
    "ChromaTransformer2DModel": {
        "in_channels": "x_embedder.weight[1]",
        "out_channels": "proj_out.weight[0]",
        "num_layers": "#transformer_blocks",
        "num_single_layers": "#single_transformer_blocks",
        "attention_head_dim": f"transformer_blocks.0.{HEADS}",
        "num_attention_heads": f"x_embedder.weight[0] / transformer_blocks.0.{HEADS}",
        "joint_attention_dim": "context_embedder.weight[1]",
        "approximator_num_channels": "distilled_guidance_layer.in_proj.weight[1]",
        "approximator_hidden_dim": "distilled_guidance_layer.in_proj.weight[0]",
        "approximator_layers": "#distilled_guidance_layer.layers",
    },
    "Flux2Transformer2DModel": {
        "in_channels": "x_embedder.weight[1]",
        "out_channels": "proj_out.weight[0]",
        "num_layers": "#transformer_blocks",
        "num_single_layers": "#single_transformer_blocks",
        "attention_head_dim": f"transformer_blocks.0.{HEADS}",
        "num_attention_heads": f"x_embedder.weight[0] / transformer_blocks.0.{HEADS}",
        "joint_attention_dim": "context_embedder.weight[1]",
        "timestep_guidance_channels": "time_guidance_embed.timestep_embedder.linear_1.weight[1]",
        "guidance_embeds": "?time_guidance_embed.guidance_embedder.linear_1.weight",
    },
    "FluxTransformer2DModel": {
        "in_channels": "x_embedder.weight[1]",
        "out_channels": "proj_out.weight[0]",
        "num_layers": "#transformer_blocks",
        "num_single_layers": "#single_transformer_blocks",
        "attention_head_dim": f"transformer_blocks.0.{HEADS}",
        "num_attention_heads": f"x_embedder.weight[0] / transformer_blocks.0.{HEADS}",
        "joint_attention_dim": "context_embedder.weight[1]",
        "pooled_projection_dim": "time_text_embed.text_embedder.linear_1.weight[1]",
        "guidance_embeds": "?time_text_embed.guidance_embedder.linear_1.weight",
    },
    "Lumina2Transformer2DModel": {
        "in_channels": "x_embedder.weight[1] / 4",
        "hidden_size": "x_embedder.weight[0]",
        "num_layers": "#layers",
        "num_refiner_layers": "#noise_refiner",
        "num_attention_heads": f"x_embedder.weight[0] / layers.0.{HEADS}",
        "num_kv_heads": f"layers.0.attn.to_k.weight[0] / layers.0.{HEADS}",
        "cap_feat_dim": "time_caption_embed.caption_embedder.1.weight[1]",
    },
    "PixArtTransformer2DModel": {
        "in_channels": "pos_embed.proj.weight[1]",
        "out_channels": "proj_out.weight[0] / 4",
        "num_layers": "#transformer_blocks",
        "num_attention_heads": "pos_embed.proj.weight[0] / {attention_head_dim}",
        "cross_attention_dim": "pos_embed.proj.weight[0]",
        "caption_channels": "caption_projection.linear_1.weight[1]",
        "use_additional_conditions": "?adaln_single.emb.resolution_embedder.linear_1.weight",
    },
    "QwenImageTransformer2DModel": {
        "in_channels": "img_in.weight[1]",
        "out_channels": "proj_out.weight[0] / 4",
        "num_layers": "#transformer_blocks",
        "attention_head_dim": f"transformer_blocks.0.{HEADS}",
        "num_attention_heads": f"img_in.weight[0] / transformer_blocks.0.{HEADS}",
        "joint_attention_dim": "txt_in.weight[1]",
        "use_additional_t_cond": "?time_text_embed.addition_t_embedding.weight",
    },
    "SD3Transformer2DModel": {
        "in_channels": "pos_embed.proj.weight[1]",
        "out_channels": "proj_out.weight[0] / 4",
        "num_layers": "#transformer_blocks",
        "num_attention_heads": "pos_embed.proj.weight[0] / {attention_head_dim}",
        "joint_attention_dim": "context_embedder.weight[1]",
        "caption_projection_dim": "context_embedder.weight[0]",
        "pooled_projection_dim": "time_text_embed.text_embedder.linear_1.weight[1]",
        "pos_embed_max_size": "root pos_embed.pos_embed[1]",
        "dual_attention_layers": "transformer_blocks having attn2.to_q.weight",
        "qk_norm": f"rms_norm where transformer_blocks.0.{HEADS.removesuffix('[0]')}",
    },
    "SanaTransformer2DModel": {
        "in_channels": "patch_embed.proj.weight[1]",
        "out_channels": "proj_out.weight[0]",
        "num_layers": "#transformer_blocks",
        "num_attention_heads": "patch_embed.proj.weight[0] / {attention_head_dim}",
        "num_cross_attention_heads": "patch_embed.proj.weight[0] / {cross_attention_head_dim}",
        "cross_attention_dim": "patch_embed.proj.weight[0]",
        "caption_channels": "caption_projection.linear_1.weight[1]",
        "guidance_embeds": "?time_embed.guidance_embedder.linear_1.weight",
        "qk_norm": f"rms_norm_across_heads where transformer_blocks.0.{HEADS.removesuffix('[0]').replace('attn', 'attn1')}",
    },
    "T5EncoderModel": T5,
    "UMT5EncoderModel": T5,
    "ZImageTransformer2DModel": {
        "in_channels": "all_x_embedder.2-1.weight[1] / 4",
        "dim": "all_x_embedder.2-1.weight[0]",
        "n_layers": "#layers",
        "n_refiner_layers": "#noise_refiner",
        "n_heads": "all_x_embedder.2-1.weight[0] / layers.0.attention.norm_q.weight[0]",
        "n_kv_heads": "layers.0.attention.to_k.weight[0] / layers.0.attention.norm_q.weight[0]",
        "cap_feat_dim": "cap_embedder.1.weight[1]",
    },
}


def derived(facts: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """A config of literal facts with what shapes tell.  Raises CheckpointError when they make no sense."""
    table = TABLES[facts["_class_name"]]
    return {**facts} | {entry: _read(words.format_map(facts), shapes) for entry, words in table.items()}


def _read(words: str, shapes: Shapes) -> Any:
    if words.startswith("?"):
        return words[1:] in shapes
    if words.startswith("#"):
        return len(_numbers(words[1:], shapes))
    if words.startswith("root "):
        return isqrt(_side(words.removeprefix("root "), shapes))
    if " where " in words:
        value, name = words.split(" where ")
        return value if name in shapes else None
    if " having " in words:
        blocks, name = words.split(" having ")
        return [number for number in _numbers(blocks, shapes) if f"{blocks}.{number}.{name}" in shapes]
    if " / " in words:
        whole, share = (_side(word, shapes) for word in words.split(" / "))
        if not share or whole % share:
            raise CheckpointError(f"{words} is {whole} / {share}, which is no whole number.")
        return whole // share
    return _side(words, shapes)


def _side(word: str, shapes: Shapes) -> int:
    if word.isdecimal():
        return int(word)
    found = SIDE.fullmatch(word)
    assert found is not None, word
    shape = shapes.get(found["name"])
    if shape is None or len(shape) <= int(found["side"]):
        raise CheckpointError(f"{found['name']} is {'missing' if shape is None else list(shape)}; it tells the config.")
    return shape[int(found["side"])]


def _numbers(blocks: str, shapes: Shapes) -> list[int]:
    """The numbers of the blocks that there are, in order."""
    start = f"{blocks}."
    found = {name.removeprefix(start).partition(".")[0] for name in shapes if name.startswith(start)}
    return sorted(int(number) for number in found if number.isdecimal())
