"""AuraFlow with Euler steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.stable_diffusion import autoencoder, decode
from families.vocabulary import t5_tokenizer


def umt5(width: int = 32) -> Any:
    transformers = library("transformers")
    config = transformers.UMT5Config(
        vocab_size=128,
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=32,
        feed_forward_proj="gated-gelu",
    )
    return transformers.UMT5EncoderModel(config).eval()


def make(folder: Path) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=64,
    ).eval()
    for parameter in transformer.parameters():
        parameter.data.normal_(std=0.15)  # a few words among 256 tokens would hardly be heard otherwise
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73)
    vae = autoencoder(scaling_factor=0.13025)
    pipe = diffusers.AuraFlowPipeline(t5_tokenizer(), umt5(), vae, transformer, scheduler)
    pipe.save_pretrained(folder)
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    return pipe(
        prompt,
        negative,
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        output_type="latent",
    ).images


CASES = [Case("AuraFlow", make, latents, decode, schedule="normal")]
