"""The tables of the names of what stands beside a transformer; `original_names` says how they are read."""

from __future__ import annotations

T5 = """
token_embd shared
enc.output_norm encoder.final_layer_norm
enc.blk.# encoder.block.#:
 attn_norm layer.0.layer_norm
 attn_q layer.0.SelfAttention.q
 attn_k layer.0.SelfAttention.k
 attn_v layer.0.SelfAttention.v
 attn_o layer.0.SelfAttention.o
 attn_rel_b layer.0.SelfAttention.relative_attention_bias
 ffn_norm layer.1.layer_norm
 ffn_gate layer.1.DenseReluDense.wi_0
 ffn_up layer.1.DenseReluDense.wi_1
 ffn_down layer.1.DenseReluDense.wo
"""
RESNET = """
 residual.0 norm1
 residual.2 conv1
 residual.3 norm2
 residual.6 conv2
 shortcut conv_shortcut
"""
UPWARDS = ("resnets.0", "resnets.1", "resnets.2", "upsamplers.0")
STEP = " resample resample\n time_conv time_conv\n"
WAN_VAE = f"""
conv1 quant_conv
conv2 post_quant_conv
encoder.conv1 encoder.conv_in
encoder.head.0 encoder.norm_out
encoder.head.2 encoder.conv_out
decoder.conv1 decoder.conv_in
decoder.head.0 decoder.norm_out
decoder.head.2 decoder.conv_out
encoder.middle.1 encoder.mid_block.attentions.0
decoder.middle.1 decoder.mid_block.attentions.0
encoder.middle.0 encoder.mid_block.resnets.0:
{RESNET}
encoder.middle.2 encoder.mid_block.resnets.1:
{RESNET}
decoder.middle.0 decoder.mid_block.resnets.0:
{RESNET}
decoder.middle.2 decoder.mid_block.resnets.1:
{RESNET}
encoder.downsamples.# encoder.down_blocks.#:
{RESNET}
 resample resample
 time_conv time_conv
""" + "".join(
    f"decoder.upsamples.{place} decoder.up_blocks.{place // 4}.{UPWARDS[place % 4]}:\n{RESNET}{STEP}"
    for place in range(15)
)
