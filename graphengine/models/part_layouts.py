"""The published layouts of what stands beside a denoiser, and of the adapters that change one.

`PARTS` reads like the table of `layouts`.  In `ADAPTERS` the words are about the layers that an adapter changes, with
`_` between the segments and `#` for numbers: `name` is part of a layer's name, `^name` its beginning, `name[64,32]` has
these outputs and inputs, and `blocks>18` says that the highest number after that word is above 18.
"""

from __future__ import annotations

PARTS = """
vae flux_2 ldm -
    : bn.running_mean[128] decoder.conv_in.weight[*,32] decoder.mid.block_1.conv1.weight
vae flux_2 diffusers -
    : bn.running_mean[128] decoder.conv_in.weight[*,32] decoder.mid_block.resnets.0.conv1.weight
vae flux ldm -
    : encoder.down.0.block.0.conv1.weight decoder.conv_in.weight[512,16,3,3] decoder.mid.block_1.conv1.weight
    kl_16:
vae flux diffusers -
    : encoder.down_blocks.0.resnets.0.conv1.weight decoder.conv_in.weight[512,16,3,3] decoder.mid_block.resnets.0.conv1.weight
    kl_16:
vae stable_diffusion ldm -
    : encoder.down.0.block.0.conv1.weight decoder.conv_in.weight[512,4,3,3] quant_conv.weight
    kl_4_x4_upscaler: !encoder.down.3.block.0.conv1.weight
    kl_4:
vae stable_diffusion diffusers -
    : encoder.down_blocks.0.resnets.0.conv1.weight decoder.conv_in.weight[512,4,3,3] quant_conv.weight
    kl_4_x4_upscaler: !encoder.down_blocks.3.resnets.0.conv1.weight
    kl_4:
vae stable_diffusion taesd -
    : encoder.layers.0.weight[64,3,3,3] decoder.layers.0.weight
    taesd: decoder.layers.0.weight[64,4]
    taesd_16: decoder.layers.0.weight[64,16]
vae wan original -
    : decoder.middle.0.residual.0.gamma encoder.conv1.weight
    wan_2_1: decoder.conv1.weight[384,16]
    wan_2_2: decoder.conv1.weight[1024,48]
vae wan diffusers -
    : decoder.mid_block.resnets.0.norm1.gamma encoder.conv_in.weight
    wan_2_1: decoder.conv_in.weight[384,16]
    wan_2_2: decoder.conv_in.weight[1024,48]
vae sana original -
    : encoder.project_in.conv.bias|encoder.project_in.conv.conv.bias decoder.stages.0.op_list.0.main.conv.conv.bias|decoder.stages.1.op_list.0.main.conv.conv.bias
    dc_ae:
vae sana diffusers -
    : decoder.up_blocks.0.0.conv.weight encoder.down_blocks.0.0.conv1.weight encoder.conv_in.weight[128,3,3,3]
    dc_ae: decoder.conv_in.weight[1024,32]
vae hunyuan_video diffusers -
    : encoder.conv_in.conv.weight[128,3,3,3,3] encoder.mid_block.attentions.0.to_q.weight
vae cogvideox diffusers -
    : encoder.conv_in.conv.weight[128,3,3,3,3] decoder.up_blocks.0.resnets.0.norm1.conv_y.conv.weight
vae ltx_video diffusers -
    : encoder.conv_in.conv.weight[128,48,3,3,3] latents_mean[128]
vae ltx_video original -
    : encoder.conv_in.conv.weight[128,48,3,3,3] per_channel_statistics.mean-of-means
vae mochi diffusers -
    : encoder.block_in.resnets.0.conv1.conv.weight decoder.block_in.resnets.0.conv1.conv.weight
text_encoder clip transformers -
    : text_model.embeddings.token_embedding.weight text_model.encoder.layers.0.self_attn.q_proj.weight
    clip_l: text_model.embeddings.token_embedding.weight[*,768]
    clip_h: text_model.embeddings.token_embedding.weight[*,1024]
    clip_g: text_model.embeddings.token_embedding.weight[*,1280]
text_encoder clip transformers_5 -
    : embeddings.token_embedding.weight encoder.layers.0.self_attn.q_proj.weight
    clip_l: embeddings.token_embedding.weight[*,768]
    clip_h: embeddings.token_embedding.weight[*,1024]
    clip_g: embeddings.token_embedding.weight[*,1280]
text_encoder clip open_clip -
    : token_embedding.weight transformer.resblocks.0.attn.in_proj_weight ln_final.weight
    clip_l: token_embedding.weight[*,768]
    clip_h: token_embedding.weight[*,1024]
    clip_g: token_embedding.weight[*,1280]
text_encoder t5 transformers -
    : encoder.block.0.layer.0.SelfAttention.q.weight
    umt5_xxl: shared.weight[256384,4096]
    byt5: shared.weight[*,1472]
    pile_t5_xl: shared.weight[32128,2048] encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight
    t5_xl: shared.weight[32128,2048]
    t5_xxl: encoder.block.0.layer.0.SelfAttention.q.weight[*,4096]
text_encoder t5 gguf -
    : enc.blk.0.attn_q.weight enc.blk.0.ffn_gate.weight token_embd.weight
    pile_t5_xl: token_embd.weight[32128,2048] enc.blk.1.attn_rel_b.weight
    t5_xxl: token_embd.weight[*,4096] !enc.blk.1.attn_rel_b.weight
text_encoder t5 original -
    : token_embedding.weight blocks.0.attn.q.weight blocks.0.pos_embedding.embedding.weight
    umt5_xxl: token_embedding.weight[256384,4096]
text_encoder language_model transformers -
    : embed_tokens.weight layers.0.self_attn.q_proj.weight
    gemma_2_2b: embed_tokens.weight[256000,2304]
    gemma_3_4b: embed_tokens.weight[262208,2560]
    gemma_3_12b: embed_tokens.weight[262208,3840]
    qwen_2_5_vl_7b: embed_tokens.weight[152064,3584]
    qwen_2_5_vl_3b: embed_tokens.weight[151936,2048] !layers.0.self_attn.q_norm.weight
    qwen_3_0_6b: embed_tokens.weight[151936,1024]
    qwen_3_1_7b: embed_tokens.weight[151936,2048]
    qwen_3_4b: embed_tokens.weight[151936,2560]
    qwen_3_8b: embed_tokens.weight[151936,4096]
    mistral_small_3: embed_tokens.weight[131072,5120]
    llama_3_8b: embed_tokens.weight[*,4096] !layers.0.self_attn.q_norm.weight
image_encoder clip_vision transformers -
    : vision_model.embeddings.patch_embedding.weight vision_model.encoder.layers.0.self_attn.q_proj.weight
    clip_vision_l: vision_model.embeddings.patch_embedding.weight[1024,3,14,14]
    clip_vision_h: vision_model.embeddings.patch_embedding.weight[1280,3,14,14]
    clip_vision_g: vision_model.embeddings.patch_embedding.weight[1664,3,14,14]
    siglip: vision_model.embeddings.patch_embedding.weight[1152,3,14,14]
ip_adapter stable_diffusion_xl original ip_adapter.1.to_k_ip.weight
    : ip_adapter.1.to_k_ip.weight[640,2048]
    sdxl:
ip_adapter stable_diffusion original ip_adapter.1.to_k_ip.weight
    : ip_adapter.1.to_k_ip.weight[320]
    sd1: ip_adapter.1.to_k_ip.weight[320,768]
    sd2: ip_adapter.1.to_k_ip.weight[320,1024]
ip_adapter flux xlabs -
    : double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight ip_adapter_proj_model.proj.weight
t2i_adapter stable_diffusion_xl diffusers -
    : conv_in.weight[320,768]|conv_in.weight[320,256] body.0.resnets.0.block1.weight
    sdxl:
t2i_adapter stable_diffusion diffusers -
    : conv_in.weight[320,192]|conv_in.weight[320,64] body.0.resnets.0.block1.weight
    sd1:
t2i_adapter stable_diffusion diffusers -
    : body.0.in_conv.weight[*,192]|body.0.in_conv.weight[*,64] body.0.resnets.0.block1.weight
    sd1_light:
t2i_adapter stable_diffusion_xl original -
    : conv_in.weight[320,768]|conv_in.weight[320,256] body.0.block1.weight
    sdxl:
t2i_adapter stable_diffusion original -
    : conv_in.weight[320,192]|conv_in.weight[320,64] body.0.block1.weight
    sd1:
t2i_adapter stable_diffusion original -
    : body.0.in_conv.weight[*,192]|body.0.in_conv.weight[*,64] body.0.body.0.block1.weight
    sd1_light:
upscaler esrgan original -
    : model.0.weight model.1.sub.0.RDB1.conv1.0.weight
upscaler esrgan real_esrgan -
    : conv_first.weight body.0.rdb1.conv1.weight conv_last.weight
upscaler compact original -
    : body.0.weight[*,3,3,3] body.1.weight body.2.weight
upscaler hat original -
    : conv_first.weight layers.0.residual_group.blocks.0.conv_block.cab.0.weight
upscaler swinir original -
    : conv_first.weight layers.0.residual_group.blocks.0.attn.qkv.weight
upscaler rcan original -
    : head.0.weight body.0.body.0.body.0.weight
textual_inversion stable_diffusion_3 comfyui -
    : clip_l[*,768] clip_g[*,1280] t5xxl[*,4096]
textual_inversion stable_diffusion_xl comfyui -
    : clip_l[*,768] clip_g[*,1280]
    sdxl:
textual_inversion stable_diffusion one_tensor -
    : ?
    sd1: ?[*,768]|?[768]
    sd2: ?[*,1024]|?[1024]
"""

PREFIXES = {
    "denoiser": (
        "",
        "model.diffusion_model.",
        "diffusion_model.",
        "model.",
        "unet.",
        "transformer.",
        "net.",
        "module.",
    ),
    "vae": ("", "first_stage_model.", "vae."),
    "text_encoder": (
        *("", "cond_stage_model.transformer.", "cond_stage_model.model.", "cond_stage_model.", "text_encoder."),
        *("conditioner.embedders.0.transformer.", "conditioner.embedders.0.model.", "conditioner.embedders.1.model."),
        *("text_encoder_2.", "text_encoder_3.", "model.", "model.language_model.", "language_model.", "transformer."),
        *("language_model.model.", "clip_l.", "clip_g.", "t5xxl."),
    ),
    "image_encoder": ("", "image_encoder.", "conditioner.embedders.0.open_clip."),
    "controlnet": ("", "control_model.", "controlnet."),
    "t2i_adapter": ("", "adapter."),
}
"""What may stand before the names of a kind of network; nothing, for the kinds that are not here."""

ADAPTERS = """
animatediff -
    : _motion_modules_#
    motion_lora:
stable_diffusion_xl attn2_to_k|attn2_to_v
    : ^UNET attn2_to_k[*,2048]|attn2_to_v[*,2048]
    sdxl:
stable_diffusion_xl attn2_to_k|attn2_to_v
    : ^UNET attn2_to_k[*,1280]|attn2_to_v[*,1280]
    sdxl_refiner:
stable_diffusion attn2_to_k|attn2_to_v
    : ^UNET attn2_to_k[*,1024]|attn2_to_v[*,1024]
    sd2:
stable_diffusion attn2_to_k|attn2_to_v
    : ^UNET attn2_to_k[*,768]|attn2_to_v[*,768]
    sd1:
stable_diffusion attn2_to_k|attn2_to_v
    : ^UNET attn2_to_k[96,128]|attn2_to_v[96,128]
    tiny:
stable_diffusion_xl -
    : ^UNET !attn2_to_k|attn2_to_v transformer_blocks>0|^text_encoder_2:
    sdxl:
stable_diffusion -
    : ^UNET !attn2_to_k|attn2_to_v down_blocks>2|up_blocks>2|input_blocks>8|output_blocks>8
    sd1_or_sd2:
chroma img_attn_proj|img_attn_qkv|linear1
    : ^distilled_guidance_layer
hunyuan_video img_attn_proj|img_attn_qkv|linear1
    : ^double_blocks_#_img_mlp_fc|^double_blocks_#_img_mod_linear|^single_blocks_#_modulation_linear
flux_2 single_blocks_#_linear1|img_attn_proj|img_attn_qkv
    : ^double_blocks_#_img|^single_blocks_#_linear1
    flux_2_dev: _img_attn_proj[6144]|_img_attn_qkv[*,6144]|_linear1[*,6144]
    flux_2_klein_9b: _img_attn_proj[4096]|_img_attn_qkv[*,4096]|_linear1[*,4096]
    flux_2_klein_4b: _linear1[27648,3072]|_img_mlp_0[18432,3072]
    flux_2_klein_4b_or_flux: double_blocks>3 !double_blocks>4 !single_blocks>19 !_linear1|_img_mlp_0 _img_attn_proj[3072]|_img_attn_qkv[*,3072]
flux_2 to_qkv_mlp_proj
    : _to_qkv_mlp_proj|ff_linear_in|_stream_modulation|transformer_blocks_#_attn_to_q[*,6144]
    flux_2_dev: _to_qkv_mlp_proj[*,6144]|ff_linear_in[*,6144]|attn_to_q[*,6144]
    flux_2_klein_9b: _to_qkv_mlp_proj[*,4096]|ff_linear_in[*,4096]
    flux_2_klein_4b: _to_qkv_mlp_proj[*,3072]|ff_linear_in[*,3072]
flux img_attn_proj|img_attn_qkv|linear1
    : ^double_blocks_#_|^single_blocks_#_
    flux: img_mod_lin|txt_mod_lin|modulation_lin
    flux_or_chroma:
qwen_image attn_to_q|attn_to_k
    : ^transformer_blocks_#_img_m|^transformer_blocks_#_txt_m
qwen_image attn_to_q|attn_to_k
    : ^transformer_blocks_#_attn_to|^transformer_blocks_#_attn_add !^single_transformer_blocks transformer_blocks>37
aura_flow -
    : ^joint_transformer_blocks_#|^double_layers_#|^single_layers_#
hunyuan_video attn_to_q|attn_to_k
    : ^single_transformer_blocks_# single_transformer_blocks>37
    hunyuan_video:
stable_diffusion_3 x_block_attn_proj|x_block_attn_qkv
    : ^joint_blocks_#
    sd35_large: x_block_attn_qkv[*,2432]|x_block_attn_proj[2432]
    sd35_medium: x_block_attn2
    sd3_medium:
stable_diffusion_3 attn_to_q|attn_to_k|attn_to_v
    : ^transformer_blocks_#_attn_
    sd35_large: attn_to_q[*,2432]|attn_to_k[*,2432]|attn_to_v[*,2432]
    sd35_medium: transformer_blocks_#_attn2_to attn_to_q[*,1536]|attn_to_k[*,1536]|attn_to_v[*,1536]
    sd3_medium: attn_to_q[*,1536]|attn_to_k[*,1536]|attn_to_v[*,1536]
flux attn_to_q|attn_to_k|proj_mlp
    : ^single_transformer_blocks_#|^transformer_blocks_#_attn_to|^transformer_blocks_#_attn_add
    flux: norm1_linear|norm1_context_linear|norm_linear
    flux_or_chroma: _attn_to_q[*,3072]|_attn_to_k[*,3072]|_attn_add_q_proj[*,3072]|_proj_mlp[*,3072]|proj_out[3072]
z_image attention_to_q|attention_qkv|attention_to_k
    : ^layers_#_attention|^layers_#_feed_forward|^layers_#_adaLN
    z_image: attention_qkv[*,3840]|attention_to_q[*,3840]|attention_to_k[*,3840]|feed_forward_w1[*,3840]
lumina_2 -
    : ^layers_#_att
    lumina_2: attention_qkv[*,2304]|attn_to_q[*,2304]|attn_to_k[*,2304]
krea_2 -
    : ^blocks_#_attn_wq|^blocks_#_attn_wk|^transformer_blocks_#_attn_to_gate
hidream -
    : ^double_stream_blocks_#|^single_stream_blocks_#
cosmos -
    : ^blocks_#_self_attn_q_proj|^blocks_#_cross_attn_q_proj
wan self_attn_q|attn1_to_q|cross_attn_q|attn2_to_q
    : ^blocks_#_self_attn|^blocks_#_cross_attn|^blocks_#_ffn|^blocks_#_attn1_to|^blocks_#_attn2_to
    wan_14b: attn_q[*,5120]|attn_k[*,5120]|attn1_to_q[*,5120]|attn2_to_q[*,5120]|ffn_0[*,5120]
    wan_5b: attn_q[*,3072]|attn_k[*,3072]|attn1_to_q[*,3072]|attn2_to_q[*,3072]|ffn_0[*,3072]
    wan_1_3b: attn_q[*,1536]|attn_k[*,1536]|attn1_to_q[*,1536]|attn2_to_q[*,1536]|ffn_0[*,1536]
mochi -
    : ^blocks_#_attn_qkv_x|^transformer_blocks_#_attn1_add_q_proj
ltx_video attn1_to_q
    : ^transformer_blocks_#_attn1_to|^transformer_blocks_#_attn2_to
    ltx_video_13b: attn1_to_q[*,4096]|attn1_to_k[*,4096]
    ltx_video_2b: attn1_to_q[*,2048]|attn1_to_k[*,2048]
cogvideox attn1_to_q
    : ^transformer_blocks_#_attn1_to
    cogvideox_5b: attn1_to_q[*,3072]|attn1_to_k[*,3072]
    cogvideox_2b: attn1_to_q[*,1920]|attn1_to_k[*,1920]
sana attn1_to_q
    : ^transformer_blocks_#_attn1_to attn1_to_q[*,2240]|attn1_to_k[*,2240]|attn2_to_q[*,2240]
    sana_1_6b:
pixart attn1_to_q
    : ^transformer_blocks_#_attn1_to attn1_to_q[*,1152]|attn1_to_k[*,1152]|attn2_to_q[*,1152]
    pixart_or_sana_0_6b:
stable_diffusion_xl -
    : ^text_encoder_2:
    sdxl:
stable_diffusion -
    : ^text_encoder:
    sd1: self_attn_q_proj[*,768]|self_attn_k_proj[*,768]|mlp_fc1[*,768]
    sd2: self_attn_q_proj[*,1024]|self_attn_k_proj[*,1024]|mlp_fc1[*,1024]
""".replace("^UNET", "^down_blocks_#|^up_blocks_#|^mid_block_|^input_blocks_#|^output_blocks_#|^middle_block_#")
