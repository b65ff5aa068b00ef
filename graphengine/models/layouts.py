"""The published layouts of weights, as a table: which names and shapes tell what a file is.

A head says kind, family, layout and the tensor whose last side an adapter must agree with (the width of a U-Net's text
features, or of a transformer's tokens).  The line below it says what every such file has under one prefix; the lines
after that are variants, tried in order, of which one must hold.  Words: `name` is there; `!name` is not; `^name` is,
without the prefix; `name[320,*,3]` is, and begins with these sides; `this|that` is either; `?` is a file's one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

UNETS = """
denoiser kolors {layout} {cross}
    : {entry} {cross}[640,2048] encoder_hid_proj.weight[2048,4096]
denoiser stable_diffusion {layout} {cross}
    : {out} {entry} {cross} !{added}
    sd1_lcm: {entry}[320,4] {cross}[640,768] {guided}
    sd1: {entry}[320,4] {cross}[640,768] {second}
    sd1_small: {entry}[320,4] {cross}[640,768]
    sd1_inpaint: {entry}[320,9] {cross}[640,768]
    sd1_instruct: {entry}[320,8] {cross}[640,768]
    sd2_unclip: {entry}[320,4] {cross}[640,1024] {unclip}[1280]
    sd2: {entry}[320,4] {cross}[640,1024]
    sd2_inpaint: {entry}[320,9] {cross}[640,1024]
    sd2_depth: {entry}[320,5] {cross}[640,1024]
    sd2_x4_upscaler: {entry}[256,7] {cross}[512,1024]
denoiser stable_diffusion_xl {layout} {cross}
    : {out} {entry} {cross} {added}
    playground_v2_5: {entry}[320,4] {cross}[640,2048] {deep} ^edm_mean
    sdxl_lcm: {entry}[320,4] {cross}[640,2048] {guided}
    sdxl: {entry}[320,4] {cross}[640,2048] {deep}
    sdxl_pruned: {entry}[320,4] {cross}[640,2048]
    sdxl_inpaint: {entry}[320,9] {cross}[640,2048]
    sdxl_instruct: {entry}[320,8] {cross}[640,2048]
    sdxl_refiner: {entry}[384,4] {cross}[768,1280]
    sd2_unclip: {entry}[320,4] {cross}[640,1024] {added}[1280]
controlnet stable_diffusion_xl {layout} {cross}
    : {hint} {added}
    sdxl_promax: control_add_embedding.linear_1.weight|task_embedding
    sdxl: {cross}[640,2048]
    sdxl_mid: !{cross} down_blocks.1.attentions.0.norm.weight
    sdxl_small: !{cross} down_blocks.1.resnets.0.conv1.weight
controlnet stable_diffusion {layout} {cross}
    : {hint} {cross} !{added}
    sd1: {cross}[640,768]
    sd2: {cross}[640,1024]
"""
NAMES = (
    {
        "layout": "ldm",
        "entry": "input_blocks.0.0.weight",
        "out": "out.2.weight",
        "cross": "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "deep": "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight",
        "second": "input_blocks.2.0.in_layers.2.weight",
        "guided": "time_embed.cond_proj.weight",
        "added": "label_emb.0.0.weight",
        "unclip": "label_emb.0.0.weight",
        "hint": "input_hint_block.0.weight",
    },
    {
        "layout": "diffusers",
        "entry": "conv_in.weight",
        "out": "conv_out.weight",
        "cross": "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "deep": "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight",
        "second": "down_blocks.0.resnets.1.conv1.weight",
        "guided": "time_embedding.cond_proj.weight",
        "added": "add_embedding.linear_1.weight",
        "unclip": "class_embedding.linear_1.weight",
        "hint": "controlnet_cond_embedding.conv_in.weight",
    },
)
"""The names of the same tensors of a U-Net in the two layouts."""

TABLE = """
controlnet flux diffusers transformer_blocks.0.attn.to_q.weight
    : controlnet_blocks.0.weight controlnet_x_embedder.weight transformer_blocks.0.attn.to_q.weight x_embedder.weight[3072]
    flux_union: controlnet_mode_embedder.weight
    flux:
controlnet flux xlabs double_blocks.0.img_attn.proj.bias
    : double_blocks.0.img_attn.qkv.weight controlnet_blocks.0.weight input_hint_block.0.weight
    flux:
controlnet qwen_image diffusers transformer_blocks.0.attn.to_q.weight
    : controlnet_blocks.0.weight controlnet_x_embedder.weight txt_norm.weight[3584]
controlnet stable_diffusion_3 diffusers controlnet_blocks.0.bias
    : controlnet_blocks.0.bias pos_embed_input.proj.weight
    sd3: controlnet_blocks.0.bias[1536]
    sd35_large: controlnet_blocks.0.bias[2432]
controlnet z_image original -
    : control_all_x_embedder.2-1.weight control_layers.0.before_proj.weight
controlnet stable_diffusion_xl control_lora -
    : lora_controlnet input_hint_block.0.weight label_emb.0.0.up
    sdxl:
controlnet stable_diffusion control_lora -
    : lora_controlnet input_hint_block.0.weight
    sd1: input_blocks.4.1.transformer_blocks.0.attn2.to_k.down[*,768]
    sd2: input_blocks.4.1.transformer_blocks.0.attn2.to_k.down[*,1024]
denoiser stable_video_diffusion diffusers -
    : conv_in.weight[320,8] down_blocks.0.resnets.0.spatial_res_block.conv1.weight
denoiser stable_video_diffusion ldm -
    : input_blocks.0.0.weight[320,8] input_blocks.1.1.time_stack.0.norm1.weight
denoiser stable_cascade original -
    : clip_txt_mapper.weight|clip_mapper.weight down_blocks.0.0.channelwise.0.weight
    stage_c: clip_img_mapper.weight
    stage_b: effnet_mapper.0.weight
denoiser flux_2 bfl single_blocks.0.linear1.weight
    : double_blocks.0.img_attn.qkv.weight single_stream_modulation.lin.weight
    flux_2_dev: img_in.weight[6144,128]
    flux_2_klein_4b: img_in.weight[3072,128]
    flux_2_klein_9b: img_in.weight[4096,128]
    flux_2: img_in.weight[*,128]
denoiser flux_2 diffusers single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight
    : single_stream_modulation.linear.weight single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight
    flux_2_dev: x_embedder.weight[6144,128]
    flux_2_klein_4b: x_embedder.weight[3072,128]
    flux_2_klein_9b: x_embedder.weight[4096,128]
    flux_2: x_embedder.weight[*,128]
denoiser chroma bfl double_blocks.0.img_attn.proj.bias
    : double_blocks.0.img_attn.qkv.weight distilled_guidance_layer.in_proj.bias
    chroma: img_in.weight[*,64]
    chroma_radiance: img_in_patch.weight
denoiser chroma diffusers transformer_blocks.0.attn.to_out.0.bias
    : transformer_blocks.0.attn.add_q_proj.weight distilled_guidance_layer.in_proj.bias x_embedder.weight[*,64]
denoiser hunyuan_video original double_blocks.0.img_attn_proj.bias
    : double_blocks.0.img_attn_qkv.weight txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias
    hunyuan_video_i2v: img_in.proj.weight[3072,33]
    hunyuan_video: img_in.proj.weight[3072,16]
    hunyuan_video_1_5: img_in.proj.weight[2048,65]
    hunyuan_image_2_1: img_in.proj.weight[3584,64]
denoiser hunyuan_video diffusers transformer_blocks.0.attn.to_out.0.bias
    : context_embedder.token_refiner.refiner_blocks.0.norm1.weight x_embedder.proj.weight
    framepack: clean_x_embedder.proj.weight
    hunyuan_video_i2v: x_embedder.proj.weight[3072,33]
    hunyuan_video: x_embedder.proj.weight[3072,16]
    hunyuan_video_1_5: x_embedder.proj.weight[2048,65]
    hunyuan_image_2_1: x_embedder.proj.weight[3584,64]
denoiser flux bfl double_blocks.0.img_attn.proj.bias
    : double_blocks.0.img_attn.qkv.weight single_blocks.0.linear1.weight vector_in.in_layer.weight !controlnet_blocks.0.weight
    flux_dev: guidance_in.in_layer.weight img_in.weight[3072,64]
    flux_fill: guidance_in.in_layer.weight img_in.weight[3072,384]
    flux_depth: guidance_in.in_layer.weight img_in.weight[3072,128]
    flux_schnell: !guidance_in.in_layer.weight img_in.weight[3072,64]
    flux_guided: guidance_in.in_layer.weight img_in.weight[*,64]
    flux: img_in.weight[*,64]
denoiser flux diffusers transformer_blocks.0.attn.to_out.0.bias
    : transformer_blocks.0.attn.add_q_proj.weight single_transformer_blocks.0.proj_mlp.weight time_text_embed.text_embedder.linear_1.weight[3072,768] !controlnet_blocks.0.weight
    flux_dev: time_text_embed.guidance_embedder.linear_1.weight x_embedder.weight[3072,64]
    flux_fill: time_text_embed.guidance_embedder.linear_1.weight x_embedder.weight[3072,384]
    flux_depth: time_text_embed.guidance_embedder.linear_1.weight x_embedder.weight[3072,128]
    flux_schnell: !time_text_embed.guidance_embedder.linear_1.weight x_embedder.weight[3072,64]
    flux_guided: time_text_embed.guidance_embedder.linear_1.weight x_embedder.weight[*,64]
    flux: x_embedder.weight[*,64]
denoiser stable_diffusion_3 original joint_blocks.0.x_block.attn.proj.bias
    : joint_blocks.0.context_block.adaLN_modulation.1.bias joint_blocks.0.x_block.attn.qkv.weight x_embedder.proj.weight
    sd3_medium: x_embedder.proj.weight[1536,16] pos_embed[1,36864] !joint_blocks.0.x_block.attn2.qkv.weight
    sd35_medium: x_embedder.proj.weight[1536,16] joint_blocks.0.x_block.attn2.qkv.weight
    sd35_large: x_embedder.proj.weight[2432,16]
    stable_diffusion_3: x_embedder.proj.weight[*,16]
denoiser stable_diffusion_3 diffusers transformer_blocks.0.attn.to_out.0.bias
    : transformer_blocks.0.attn.add_q_proj.weight pos_embed.proj.weight pos_embed.pos_embed !controlnet_blocks.0.weight
    sd3_medium: pos_embed.proj.weight[1536,16] !transformer_blocks.0.attn2.to_q.weight
    sd35_medium: pos_embed.proj.weight[1536,16] transformer_blocks.0.attn2.to_q.weight
    sd35_large: pos_embed.proj.weight[2432,16]
    stable_diffusion_3: pos_embed.proj.weight[*,16]
denoiser qwen_image diffusers transformer_blocks.0.attn.to_out.0.bias
    : transformer_blocks.0.img_mod.1.weight transformer_blocks.0.txt_mod.1.weight txt_norm.weight[3584] !controlnet_blocks.0.weight
    qwen_image_layered: img_in.weight[*,64] time_text_embed.addition_t_embedding.weight
    qwen_image: img_in.weight[*,64]
denoiser qwen_image_2 diffusers transformer_blocks.0.attn.to_q.weight
    : txt_in.text_norm.weight transformer_blocks.0.img_mlp.gate_layer.weight
denoiser z_image original layers.0.attention_norm1.weight
    : layers.0.adaLN_modulation.0.weight cap_embedder.0.weight[2560] layers.0.attention.qkv.weight
denoiser z_image diffusers layers.0.attention_norm1.weight
    : layers.0.adaLN_modulation.0.weight cap_embedder.0.weight[2560] layers.0.attention.to_q.weight
denoiser lumina_2 original layers.0.attention_norm1.weight
    : layers.0.adaLN_modulation.1.weight cap_embedder.0.weight[2304] layers.0.attention.qkv.weight
denoiser lumina_2 diffusers layers.0.norm1.norm.weight
    : layers.0.norm1.linear.weight time_caption_embed.caption_embedder.0.weight[2304] layers.0.norm1.norm.weight
denoiser pixart original blocks.0.attn.proj.bias
    : blocks.0.cross_attn.q_linear.weight blocks.0.mlp.fc1.weight y_embedder.y_proj.fc1.weight[*,4096]
    pixart_alpha: csize_embedder.mlp.0.weight
    pixart_sigma: !csize_embedder.mlp.0.weight
denoiser pixart diffusers transformer_blocks.0.attn1.to_q.bias
    : adaln_single.linear.weight pos_embed.proj.weight[*,4] caption_projection.linear_1.weight[*,4096]
    pixart_alpha: adaln_single.emb.resolution_embedder.linear_1.weight
    pixart_sigma: !adaln_single.emb.resolution_embedder.linear_1.weight
denoiser sana original attention_y_norm.weight
    : blocks.0.cross_attn.q_linear.weight blocks.0.mlp.inverted_conv.conv.weight attention_y_norm.weight
    sana_4_8b: attention_y_norm.weight[2240] blocks.59.scale_shift_table
    sana_1_6b: attention_y_norm.weight[2240]
    sana_0_6b: attention_y_norm.weight[1152]
    sana: y_embedder.y_proj.fc1.weight[*,2304]
denoiser sana diffusers caption_norm.weight
    : transformer_blocks.0.ff.conv_inverted.weight caption_norm.weight
    sana_4_8b: caption_norm.weight[2240] transformer_blocks.59.scale_shift_table
    sana_sprint_1_6b: caption_norm.weight[2240] time_embed.guidance_embedder.linear_1.weight
    sana_1_6b: caption_norm.weight[2240]
    sana_0_6b: caption_norm.weight[1152]
    sana: caption_projection.linear_1.weight[*,2304]
denoiser aura_flow original double_layers.0.attn.w1q.weight
    : double_layers.0.attn.w1q.weight double_layers.0.attn.w2q.weight cond_seq_linear.weight[*,2048]
denoiser aura_flow diffusers joint_transformer_blocks.0.attn.to_q.weight
    : joint_transformer_blocks.0.ff_context.linear_1.weight context_embedder.weight[*,2048] register_tokens
denoiser wan original blocks.0.self_attn.norm_q.weight
    : head.modulation patch_embedding.weight blocks.0.self_attn.norm_q.weight
    wan_vace_14b: patch_embedding.weight[5120,16] vace_blocks.0.after_proj.weight
    wan_vace_1_3b: patch_embedding.weight[1536,16] vace_blocks.0.after_proj.weight
    wan_animate_14b: patch_embedding.weight[5120,36] motion_encoder.dec.direction.weight
    wan_t2v_14b: patch_embedding.weight[5120,16]
    wan_t2v_1_3b: patch_embedding.weight[1536,16]
    wan_2_2_ti2v_5b: patch_embedding.weight[3072,48]
    wan_2_1_i2v_14b: patch_embedding.weight[5120,36] img_emb.proj.1.weight
    wan_2_2_i2v_14b: patch_embedding.weight[5120,36]
    wan_fun_1_3b: patch_embedding.weight[1536,36]
denoiser wan diffusers blocks.0.attn1.norm_q.weight
    : condition_embedder.text_embedder.linear_1.weight patch_embedding.weight blocks.0.attn1.norm_q.weight
    wan_vace_14b: patch_embedding.weight[5120,16] vace_blocks.0.proj_out.weight
    wan_vace_1_3b: patch_embedding.weight[1536,16] vace_blocks.0.proj_out.weight
    wan_t2v_14b: patch_embedding.weight[5120,16]
    wan_t2v_1_3b: patch_embedding.weight[1536,16]
    wan_2_2_ti2v_5b: patch_embedding.weight[3072,48]
    wan_2_1_i2v_14b: patch_embedding.weight[5120,36] condition_embedder.image_embedder.norm1.weight
    wan_2_2_i2v_14b: patch_embedding.weight[5120,36]
denoiser ltx_2 original -
    : av_ca_a2v_gate_adaln_single.linear.weight patchify_proj.weight
denoiser ltx_2 diffusers -
    : audio_proj_in.weight proj_in.weight audio_scale_shift_table
denoiser ltx_video original transformer_blocks.0.attn1.to_q.bias
    : patchify_proj.weight transformer_blocks.0.scale_shift_table adaln_single.linear.weight
    ltx_video_2b: patchify_proj.weight[2048,128]
    ltx_video_13b: patchify_proj.weight[4096,128]
denoiser ltx_video diffusers transformer_blocks.0.attn1.to_q.bias
    : proj_in.weight transformer_blocks.0.scale_shift_table time_embed.linear.weight caption_projection.linear_1.weight
    ltx_video_2b: proj_in.weight[2048,128]
    ltx_video_13b: proj_in.weight[4096,128]
denoiser mochi original -
    : blocks.0.attn.qkv_x.weight x_embedder.proj.weight[3072,12]
denoiser mochi diffusers -
    : pos_frequencies patch_embed.proj.weight[3072,12]
denoiser cogvideox diffusers transformer_blocks.0.norm1.norm.weight
    : patch_embed.text_proj.weight transformer_blocks.0.norm1.norm.weight time_embedding.linear_1.weight
    cogvideox_2b: patch_embed.text_proj.weight[1920,4096]
    cogvideox_5b_i2v: patch_embed.text_proj.weight[3072,4096] patch_embed.proj.weight[3072,32]
    cogvideox_5b: patch_embed.text_proj.weight[3072,4096]
denoiser cogview diffusers -
    : patch_embed.text_proj.weight time_condition_embed.condition_embedder.linear_1.weight
    cogview_3_plus_or_4: patch_embed.proj.weight[2560,64]|patch_embed.proj.weight[4096,64]
denoiser hidream original -
    : double_stream_blocks.0.block.adaLN_modulation.1.bias single_stream_blocks.0.block.adaLN_modulation.1.bias
denoiser hunyuan_dit original -
    : mlp_t5.0.weight blocks.0.attn1.Wqkv.weight
denoiser cosmos original -
    : x_embedder.proj.1.weight blocks.0.self_attn.q_proj.weight|blocks.block0.blocks.0.block.attn.to_q.0.weight
    anima: llm_adapter.blocks.0.self_attn.q_proj.weight
    cosmos_2: blocks.0.self_attn.q_proj.weight
    cosmos_1: blocks.block0.blocks.0.block.attn.to_q.0.weight
denoiser cosmos diffusers -
    : learnable_pos_embed.pos_emb_t patch_embed.proj.weight time_embed.t_embedder.linear_1.weight
denoiser kandinsky_5 diffusers -
    : visual_embeddings.in_layer.weight text_transformer_blocks.0.self_attention.to_query.weight
denoiser krea_2 diffusers -
    : text_fusion.layerwise_blocks.0.norm1.weight img_in.weight[6144,64]
denoiser krea_2 original -
    : txtfusion.projector.weight blocks.0.attn.wq.weight
image_projector flux bfl -
    : redux_up.weight redux_down.weight
    flux_redux: redux_up.weight[12288,1152]
motion_module animatediff original -
    : down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight[320,320]
    sdxl: up_blocks.2.motion_modules.0.temporal_transformer.norm.weight[320]
    sd1:
motion_module animatediff diffusers -
    : down_blocks.0.motion_modules.0.proj_in.weight[320,320]
    sdxl: up_blocks.2.motion_modules.0.norm.weight[320]
    sd1:
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """A row: its head, the words that every file of the layout fits, and those of each variant."""

    head: tuple[str, ...]
    tells: str
    variants: dict[str, str]


def read_table(text: str) -> tuple[Layout, ...]:
    """The rows of a table.  A row without variants has one, by its family's name."""
    rows: list[Layout] = []
    for line in text.strip().splitlines():
        if not line.startswith(" "):
            rows.append(Layout(tuple(line.split()), "", {}))
            continue
        variant, _, words = line.strip().partition(":")
        if variant:
            rows[-1].variants[variant] = words.strip()
        else:
            rows[-1] = Layout(rows[-1].head, words.strip(), {})
    family = {4: 1, 2: 0}
    return tuple(
        row if row.variants else Layout(row.head, row.tells, {row.head[family[len(row.head)]]: ""}) for row in rows
    )
