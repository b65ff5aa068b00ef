"""FLUX.1: dev, which is told the guidance scale, and schnell, which is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.stable_diffusion import TOKENIZER, autoencoder, clip, decode, tokenizer
from families.vocabulary import t5_encoder, t5_tokenizer

WIDTH, HEIGHT = 96, 64


def flux_autoencoder() -> Any:
    return autoencoder(
        latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    )


def make(guided: bool, folder: Path) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guided,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0 if guided else 1.0,
        use_dynamic_shifting=guided,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=8,
        max_image_seq_len=64,
    )
    pipe = diffusers.FluxPipeline(
        scheduler, flux_autoencoder(), clip(), tokenizer(), t5_encoder(), t5_tokenizer(), transformer
    )
    pipe.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    return pipe


def latents(guided: bool, pipe: Any, prompt: str, negative: str) -> Tensor:
    tokens = pipe(
        prompt,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=3.0 if guided else 0.0,
        max_sequence_length=512 if guided else 256,
        generator=generator(),
        output_type="latent",
    ).images
    return pipe._unpack_latents(tokens, HEIGHT, WIDTH, pipe.vae_scale_factor)


CASES = [
    Case(
        f"FLUX.1 {name}",
        lambda folder, guided=guided: make(guided, folder),
        lambda *words, guided=guided: latents(guided, *words),
        decode,
        size=WIDTH,
        height=HEIGHT,
        guidance=3.0 if guided else 1.0,
        negative=False,
    )
    for name, guided in (("dev", True), ("schnell", False))
]
