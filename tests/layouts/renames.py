"""From diffusers' names to the names of the published original files, for the fixtures.

A rule is a pattern and what takes its place.  Tensors that come to have one name (queries, keys and values) are stacked
along the first side, as the original files have them.
"""

import re

Shapes = dict[str, tuple[int, ...]]
Rules = list[tuple[str, str]]

RESNET: Rules = [
    (r"\.norm1\.(weight|bias)$", r".in_layers.0.\1"),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.(weight|bias)$", r".out_layers.0.\1"),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]
VAE: Rules = [
    (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    *[(rf"up_blocks\.{3 - place}\.resnets\.", f"up.{place}.block.") for place in range(4)],
    *[(rf"up_blocks\.{3 - place}\.upsamplers\.0", f"up.{place}.upsample") for place in range(4)],
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
]
STREAMS: Rules = [
    (r"attn\.to_[qkv]\.", "img_attn.qkv."),
    (r"attn\.add_[qkv]_proj\.", "txt_attn.qkv."),
    (r"attn\.norm_q\.weight", "img_attn.norm.query_norm.scale"),
    (r"attn\.norm_k\.weight", "img_attn.norm.key_norm.scale"),
    (r"attn\.norm_added_q\.weight", "txt_attn.norm.query_norm.scale"),
    (r"attn\.norm_added_k\.weight", "txt_attn.norm.key_norm.scale"),
    (r"attn\.to_out\.0\.", "img_attn.proj."),
    (r"attn\.to_add_out\.", "txt_attn.proj."),
]
SINGLE: Rules = [
    (r"img_attn\.norm\.(query|key)_norm", r"norm.\1_norm"),
    (r"img_attn\.qkv|proj_mlp|attn\.to_qkv_mlp_proj", "linear1"),
    (r"proj_out|attn\.to_out\.", "linear2."),
    (r"linear2\.\.", "linear2."),
]
FLUX: Rules = [
    (r"^time_text_embed\.timestep_embedder\.linear_", "time_in."),
    (r"^time_text_embed\.text_embedder\.linear_", "vector_in."),
    (r"^time_text_embed\.guidance_embedder\.linear_", "guidance_in."),
    (r"^time_guidance_embed\.timestep_embedder\.linear_", "time_in."),
    (r"^time_guidance_embed\.guidance_embedder\.linear_", "guidance_in."),
    (r"_in\.1\.", "_in.in_layer."),
    (r"_in\.2\.", "_in.out_layer."),
    (r"^(distilled_guidance_layer\.layers\.\d)\.linear_1", r"\1.in_layer"),
    (r"^(distilled_guidance_layer\.layers\.\d)\.linear_2", r"\1.out_layer"),
    (r"^(distilled_guidance_layer\.norms\.\d)\.weight", r"\1.scale"),
    (r"^context_embedder", "txt_in"),
    (r"^x_embedder", "img_in"),
    (r"^proj_out", "final_layer.linear"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"_modulation(_img|_txt|)\.linear", r"_modulation\1.lin"),
    (r"norm1\.linear", "img_mod.lin"),
    (r"norm1_context\.linear", "txt_mod.lin"),
    (r"norm\.linear", "modulation.lin"),
    (r"ff\.net\.0\.proj|ff\.linear_in", "img_mlp.0"),
    (r"ff\.net\.2|ff\.linear_out", "img_mlp.2"),
    (r"ff_context\.net\.0\.proj|ff_context\.linear_in", "txt_mlp.0"),
    (r"ff_context\.net\.2|ff_context\.linear_out", "txt_mlp.2"),
]
JOINT: Rules = [
    (r"^pos_embed\.pos_embed", "pos_embed"),
    (r"^pos_embed\.proj", "x_embedder.proj"),
    (r"^time_text_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"^time_text_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"^time_text_embed\.text_embedder\.linear_1", "y_embedder.mlp.0"),
    (r"^time_text_embed\.text_embedder\.linear_2", "y_embedder.mlp.2"),
    (r"^proj_out", "final_layer.linear"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^transformer_blocks", "joint_blocks"),
    (r"norm1\.linear", "x_block.adaLN_modulation.1"),
    (r"norm1_context\.linear", "context_block.adaLN_modulation.1"),
    (r"attn(2?)\.to_[qkv]\.", r"x_block.attn\1.qkv."),
    (r"attn\.add_[qkv]_proj\.", "context_block.attn.qkv."),
    (r"attn(2?)\.norm_([qk])\.", r"x_block.attn\1.ln_\2."),
    (r"attn\.norm_added_([qk])\.", r"context_block.attn.ln_\1."),
    (r"attn(2?)\.to_out\.0\.", r"x_block.attn\1.proj."),
    (r"attn\.to_add_out\.", "context_block.attn.proj."),
    (r"ff\.net\.0\.proj", "x_block.mlp.fc1"),
    (r"ff\.net\.2", "x_block.mlp.fc2"),
    (r"ff_context\.net\.0\.proj", "context_block.mlp.fc1"),
    (r"ff_context\.net\.2", "context_block.mlp.fc2"),
]
Z_IMAGE: Rules = [
    (r"^all_final_layer\.2-1\.", "final_layer."),
    (r"^all_x_embedder\.2-1\.", "x_embedder."),
    (r"attention\.to_[qkv]\.", "attention.qkv."),
    (r"attention\.to_out\.0\.", "attention.out."),
    (r"attention\.norm_([qk])\.", r"attention.\1_norm."),
]
LUMINA: Rules = [
    (r"^time_caption_embed\.caption_embedder", "cap_embedder"),
    (r"^time_caption_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"^time_caption_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"norm_out\.linear_1", "final_layer.adaLN_modulation.1"),
    (r"norm_out\.linear_2", "final_layer.linear"),
    (r"attn\.to_[qkv]\.", "attention.qkv."),
    (r"attn\.to_out\.0\.", "attention.out."),
    (r"attn\.norm_([qk])\.", r"attention.\1_norm."),
    (r"norm1\.linear\.", "adaLN_modulation.1."),
    (r"\.norm1\.norm\.|\.norm1\.", ".attention_norm1."),
    (r"\.norm2\.", ".attention_norm2."),
    (r"linear_([123])\.", r"w\1."),
    (r"attention\.w", "attention.w"),
]
WAN: Rules = [
    (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
    (r"condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
    (r"condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
    (r"condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
    (r"^scale_shift_table", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"\.scale_shift_table", ".modulation"),
    (r"attn1\.", "self_attn."),
    (r"attn2\.", "cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.add_([kv])_proj\.", r".\1_img."),
    (r"\.norm_added_k\.", ".norm_k_img."),
    (r"\.norm2\.", ".norm3."),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
]
SANA: Rules = [
    (r"^(patch_embed|pos_embed)\.proj", "x_embedder.proj"),
    (r"^(time_embed|adaln_single)\.emb\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"^(time_embed|adaln_single)\.emb\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"^(time_embed|adaln_single)\.linear", "t_block.1"),
    (r"^caption_projection\.linear_", "y_embedder.y_proj.fc"),
    (r"^caption_norm", "attention_y_norm"),
    (r"^proj_out", "final_layer.linear"),
    (r"^scale_shift_table", "final_layer.scale_shift_table"),
    (r"^transformer_blocks", "blocks"),
    (r"attn1\.to_[qkv]\.", "attn.qkv."),
    (r"attn1\.to_out\.0\.", "attn.proj."),
    (r"attn2\.to_q\.", "cross_attn.q_linear."),
    (r"attn2\.to_[kv]\.", "cross_attn.kv_linear."),
    (r"attn2\.to_out\.0\.", "cross_attn.proj."),
    (r"ff\.conv_inverted", "mlp.inverted_conv.conv"),
    (r"ff\.conv_depth", "mlp.depth_conv.conv"),
    (r"ff\.conv_point", "mlp.point_conv.conv"),
    (r"ff\.net\.0\.proj", "mlp.fc1"),
    (r"ff\.net\.2", "mlp.fc2"),
]

AURA: Rules = [
    (r"^context_embedder", "cond_seq_linear"),
    (r"^time_step_proj\.linear_1", "t_embedder.mlp.0"),
    (r"^time_step_proj\.linear_2", "t_embedder.mlp.2"),
    (r"^pos_embed\.pos_embed", "positional_encoding"),
    (r"^pos_embed\.proj", "init_x_linear"),
    (r"^norm_out\.linear", "modF.1"),
    (r"^proj_out", "final_linear"),
    (r"^joint_transformer_blocks", "double_layers"),
    (r"^(single_)transformer_blocks\.(\d+)\.norm1\.linear", r"\1layers.\2.modCX.1"),
    (r"^(single_)transformer_blocks\.(\d+)\.ff\.", r"\1layers.\2.mlp."),
    (r"^(single_)transformer_blocks\.(\d+)\.attn\.to_(?:out\.0|([qkv]))\.", r"\1layers.\2.attn.w1\3."),
    (r"attn\.w1\.", "attn.w1o."),
    (r"norm1\.linear", "modX.1"),
    (r"norm1_context\.linear", "modC.1"),
    (r"attn\.to_([qkv])\.", r"attn.w2\1."),
    (r"attn\.to_out\.0\.", "attn.w2o."),
    (r"attn\.add_([qkv])_proj\.", r"attn.w1\1."),
    (r"attn\.to_add_out\.", "attn.w1o."),
    (r"ff\.", "mlpX."),
    (r"ff_context\.", "mlpC."),
    (r"linear_([12])\.weight", r"c_fc\1.weight"),
    (r"out_projection", "c_proj"),
    (r"cond_seq_linear\.bias|cond_seq_c_fc", "cond_seq_linear"),
]


def renamed(shapes: Shapes, rules: Rules) -> Shapes:
    """The tensors by their other names; those that share one are stacked."""
    found: Shapes = {}
    for name, shape in shapes.items():
        for pattern, other in rules:
            name = re.sub(pattern, other, name)
        found[name] = (found[name][0] + shape[0], *shape[1:]) if name in found else shape
    return found


def bfl(shapes: Shapes) -> Shapes:
    """Flux and Flux 2 as their makers name them."""
    streams = {name: shape for name, shape in shapes.items() if not name.startswith("single_transformer_blocks.")}
    single = {name: shape for name, shape in shapes.items() if name.startswith("single_transformer_blocks.")}
    double = [*STREAMS, *FLUX, (r"^transformer_blocks", "double_blocks")]
    inside = [*STREAMS, *FLUX, *SINGLE, (r"^single_transformer_blocks", "single_blocks")]
    return {**renamed(streams, double), **renamed(single, inside)}


def ldm(shapes: Shapes, prefix: str = "") -> Shapes:
    """A U-Net, or the half of one that a ControlNet is, as it was first published."""
    per = 1 + max(int(name.split(".")[3]) for name in shapes if name.startswith("down_blocks.0.resnets."))
    found = {}
    for name, shape in shapes.items():
        found[prefix + _ldm_name(name, per + 1, shapes)] = shape
    return found


def _ldm_name(name: str, step: int, shapes: Shapes) -> str:
    pieces = name.split(".")
    inner = renamed({f".{'.'.join(pieces[4:])}": ()}, RESNET if pieces[2:3] == ["resnets"] else [])
    rest = next(iter(inner))
    if pieces[0] in ("down_blocks", "up_blocks"):
        block, kind, place = int(pieces[1]), pieces[2], int(pieces[3])
        start = block * step + (pieces[0] == "down_blocks")
        side = "input_blocks" if pieces[0] == "down_blocks" else "output_blocks"
        if kind == "downsamplers":
            return f"{side}.{start + step - 1}.0.op.{pieces[-1]}"
        if kind == "upsamplers":
            below = 1 + any(other.startswith(f"up_blocks.{block}.attentions.") for other in shapes)
            return f"{side}.{start + step - 1}.{below}.conv.{pieces[-1]}"
        return f"{side}.{start + place}.{int(kind == 'attentions')}{rest}"
    if pieces[0] == "mid_block":
        inner = renamed({f".{'.'.join(pieces[3:])}": ()}, RESNET if pieces[1] == "resnets" else [])
        return f"middle_block.{1 if pieces[1] == 'attentions' else 2 * int(pieces[2])}{next(iter(inner))}"
    for old, new in LDM_TOP:
        name = re.sub(old, new, name)
    return name


LDM_TOP: Rules = [
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^time_embedding\.cond_proj", "time_embed.cond_proj"),
    (r"^(add|class)_embedding\.linear_1", "label_emb.0.0"),
    (r"^(add|class)_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^controlnet_cond_embedding\.conv_in", "input_hint_block.0"),
    (r"^controlnet_cond_embedding\.conv_out", "input_hint_block.14"),
    *[(rf"^controlnet_cond_embedding\.blocks\.{place}\.", f"input_hint_block.{2 + 2 * place}.") for place in range(6)],
    (r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0."),
    (r"^controlnet_mid_block\.", "middle_block_out.0."),
]
