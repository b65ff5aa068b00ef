"""The tables of the names of transformers; `original_names` says how they are read."""

from __future__ import annotations

from graphengine.models.original_part_tables import T5, WAN_VAE

STREAMS = """
 img_attn.qkv attn.to_q attn.to_k attn.to_v
 img_attn.proj attn.to_out.0
 img_attn.norm.query_norm.scale attn.norm_q.weight
 img_attn.norm.key_norm.scale attn.norm_k.weight
 txt_attn.qkv attn.add_q_proj attn.add_k_proj attn.add_v_proj
 txt_attn.proj attn.to_add_out
 txt_attn.norm.query_norm.scale attn.norm_added_q.weight
 txt_attn.norm.key_norm.scale attn.norm_added_k.weight
"""
FEED_FORWARD = """
 img_mlp.0 ff.net.0.proj
 img_mlp.2 ff.net.2
 txt_mlp.0 ff_context.net.0.proj
 txt_mlp.2 ff_context.net.2
"""
SINGLE = """
single_blocks.# single_transformer_blocks.#:
 norm.query_norm.scale attn.norm_q.weight
 norm.key_norm.scale attn.norm_k.weight
"""
SPLIT = """
 modulation.lin norm.linear
 linear1 =attn.to_q =attn.to_k =attn.to_v proj_mlp
 linear2 proj_out
"""
ENDS = """
img_in x_embedder
txt_in context_embedder
final_layer.linear proj_out
final_layer.adaLN_modulation.1 ~norm_out.linear
"""
FLUX = f"""
{ENDS}
time_in.in_layer time_text_embed.timestep_embedder.linear_1
time_in.out_layer time_text_embed.timestep_embedder.linear_2
vector_in.in_layer time_text_embed.text_embedder.linear_1
vector_in.out_layer time_text_embed.text_embedder.linear_2
guidance_in.in_layer time_text_embed.guidance_embedder.linear_1
guidance_in.out_layer time_text_embed.guidance_embedder.linear_2
double_blocks.# transformer_blocks.#:
 img_mod.lin norm1.linear
 txt_mod.lin norm1_context.linear
{STREAMS}
{FEED_FORWARD}
{SINGLE}
{SPLIT}
"""
CHROMA = f"""
{ENDS}
distilled_guidance_layer.layers.# distilled_guidance_layer.layers.#:
 in_layer linear_1
 out_layer linear_2
distilled_guidance_layer.norms.# distilled_guidance_layer.norms.#:
 scale weight
double_blocks.# transformer_blocks.#:
{STREAMS}
{FEED_FORWARD}
{SINGLE}
{SPLIT}
"""
FLUX_2 = f"""
{ENDS}
time_in.in_layer time_guidance_embed.timestep_embedder.linear_1
time_in.out_layer time_guidance_embed.timestep_embedder.linear_2
guidance_in.in_layer time_guidance_embed.guidance_embedder.linear_1
guidance_in.out_layer time_guidance_embed.guidance_embedder.linear_2
double_stream_modulation_img.lin double_stream_modulation_img.linear
double_stream_modulation_txt.lin double_stream_modulation_txt.linear
single_stream_modulation.lin single_stream_modulation.linear
double_blocks.# transformer_blocks.#:
{STREAMS}
 img_mlp.0 ff.linear_in
 img_mlp.2 ff.linear_out
 txt_mlp.0 ff_context.linear_in
 txt_mlp.2 ff_context.linear_out
{SINGLE}
 linear1 attn.to_qkv_mlp_proj
 linear2 attn.to_out
"""
STABLE_DIFFUSION_3 = """
pos_embed pos_embed.pos_embed
x_embedder.proj pos_embed.proj
t_embedder.mlp.0 time_text_embed.timestep_embedder.linear_1
t_embedder.mlp.2 time_text_embed.timestep_embedder.linear_2
y_embedder.mlp.0 time_text_embed.text_embedder.linear_1
y_embedder.mlp.2 time_text_embed.text_embedder.linear_2
final_layer.linear proj_out
final_layer.adaLN_modulation.1 ~norm_out.linear
joint_blocks.# transformer_blocks.#:
 x_block.adaLN_modulation.1 norm1.linear
 x_block.attn.qkv attn.to_q attn.to_k attn.to_v
 x_block.attn.ln_q attn.norm_q
 x_block.attn.ln_k attn.norm_k
 x_block.attn.proj attn.to_out.0
 x_block.attn2.qkv attn2.to_q attn2.to_k attn2.to_v
 x_block.attn2.ln_q attn2.norm_q
 x_block.attn2.ln_k attn2.norm_k
 x_block.attn2.proj attn2.to_out.0
 x_block.mlp.fc1 ff.net.0.proj
 x_block.mlp.fc2 ff.net.2
 context_block.adaLN_modulation.1 ~norm1_context.linear
 context_block.attn.qkv attn.add_q_proj attn.add_k_proj attn.add_v_proj
 context_block.attn.ln_q attn.norm_added_q
 context_block.attn.ln_k attn.norm_added_k
 context_block.attn.proj attn.to_add_out
 context_block.mlp.fc1 ff_context.net.0.proj
 context_block.mlp.fc2 ff_context.net.2
"""
AURA_FLOW = """
positional_encoding pos_embed.pos_embed
init_x_linear pos_embed.proj
t_embedder.mlp.0 time_step_proj.linear_1
t_embedder.mlp.2 time_step_proj.linear_2
cond_seq_linear context_embedder
modF.1 ~norm_out.linear
final_linear proj_out
double_layers.# joint_transformer_blocks.#:
 modX.1 norm1.linear
 modC.1 norm1_context.linear
 attn.w2q attn.to_q
 attn.w2k attn.to_k
 attn.w2v attn.to_v
 attn.w2o attn.to_out.0
 attn.w1q attn.add_q_proj
 attn.w1k attn.add_k_proj
 attn.w1v attn.add_v_proj
 attn.w1o attn.to_add_out
 mlpX.c_fc1 ff.linear_1
 mlpX.c_fc2 ff.linear_2
 mlpX.c_proj ff.out_projection
 mlpC.c_fc1 ff_context.linear_1
 mlpC.c_fc2 ff_context.linear_2
 mlpC.c_proj ff_context.out_projection
single_layers.# single_transformer_blocks.#:
 modCX.1 norm1.linear
 attn.w1q attn.to_q
 attn.w1k attn.to_k
 attn.w1v attn.to_v
 attn.w1o attn.to_out.0
 mlp.c_fc1 ff.linear_1
 mlp.c_fc2 ff.linear_2
 mlp.c_proj ff.out_projection
"""
LUMINA_ATTENTION = """
 attention.qkv =attn.to_q attn.to_k attn.to_v
 attention.out attn.to_out.0
 attention.q_norm attn.norm_q
 attention.k_norm attn.norm_k
 feed_forward.w1 feed_forward.linear_1
 feed_forward.w2 feed_forward.linear_2
 feed_forward.w3 feed_forward.linear_3
 attention_norm2 norm2
"""
LUMINA_2 = f"""
norm_final -
cap_embedder time_caption_embed.caption_embedder
t_embedder.mlp.0 time_caption_embed.timestep_embedder.linear_1
t_embedder.mlp.2 time_caption_embed.timestep_embedder.linear_2
final_layer.adaLN_modulation.1 norm_out.linear_1
final_layer.linear norm_out.linear_2
context_refiner.# context_refiner.#:
{LUMINA_ATTENTION}
 attention_norm1 norm1
noise_refiner.# noise_refiner.#:
{LUMINA_ATTENTION}
 attention_norm1 norm1.norm
 adaLN_modulation.1 norm1.linear
layers.# layers.#:
{LUMINA_ATTENTION}
 attention_norm1 norm1.norm
 adaLN_modulation.1 norm1.linear
"""
ATTENTION = """
 attention.qkv attention.to_q attention.to_k attention.to_v
 attention.out attention.to_out.0
 attention.q_norm attention.norm_q
 attention.k_norm attention.norm_k
"""
Z_IMAGE = f"""
norm_final -
x_embedder all_x_embedder.2-1
final_layer all_final_layer.2-1
context_refiner.# context_refiner.#:
{ATTENTION}
noise_refiner.# noise_refiner.#:
{ATTENTION}
layers.# layers.#:
{ATTENTION}
"""
LINEAR = """
 attn.qkv attn1.to_q attn1.to_k attn1.to_v
 attn.q_norm attn1.norm_q
 attn.k_norm attn1.norm_k
 attn.proj attn1.to_out.0
 cross_attn.q_linear attn2.to_q
 cross_attn.kv_linear attn2.to_k attn2.to_v
 cross_attn.q_norm attn2.norm_q
 cross_attn.k_norm attn2.norm_k
 cross_attn.proj attn2.to_out.0
"""
TOP = """
pos_embed -
y_embedder.y_embedding -
y_embedder.y_proj.fc1 caption_projection.linear_1
y_embedder.y_proj.fc2 caption_projection.linear_2
final_layer.linear proj_out
final_layer.scale_shift_table scale_shift_table
"""
SANA = f"""
{TOP}
x_embedder.proj patch_embed.proj
t_embedder.mlp.0 time_embed.emb.timestep_embedder.linear_1
t_embedder.mlp.2 time_embed.emb.timestep_embedder.linear_2
t_block.1 time_embed.linear
attention_y_norm caption_norm
blocks.# transformer_blocks.#:
{LINEAR}
 scale_shift_table scale_shift_table
 mlp.inverted_conv.conv ff.conv_inverted
 mlp.depth_conv.conv ff.conv_depth
 mlp.point_conv.conv ff.conv_point
"""
PIXART = f"""
{TOP}
x_embedder.proj pos_embed.proj
t_embedder.mlp.0 adaln_single.emb.timestep_embedder.linear_1
t_embedder.mlp.2 adaln_single.emb.timestep_embedder.linear_2
csize_embedder.mlp.0 adaln_single.emb.resolution_embedder.linear_1
csize_embedder.mlp.2 adaln_single.emb.resolution_embedder.linear_2
ar_embedder.mlp.0 adaln_single.emb.aspect_ratio_embedder.linear_1
ar_embedder.mlp.2 adaln_single.emb.aspect_ratio_embedder.linear_2
t_block.1 adaln_single.linear
blocks.# transformer_blocks.#:
{LINEAR}
 scale_shift_table scale_shift_table
 mlp.fc1 ff.net.0.proj
 mlp.fc2 ff.net.2
"""
TABLES = {
    ("aura_flow", "original"): AURA_FLOW,
    ("chroma", "bfl"): CHROMA,
    ("flux", "bfl"): FLUX,
    ("flux_2", "bfl"): FLUX_2,
    ("lumina_2", "original"): LUMINA_2,
    ("pixart", "original"): PIXART,
    ("sana", "original"): SANA,
    ("stable_diffusion_3", "original"): STABLE_DIFFUSION_3,
    ("t5", "gguf"): T5,
    ("wan", "original"): WAN_VAE,
    ("z_image", "original"): Z_IMAGE,
}
"""The table of each family's layout."""
