"""Stable Diffusion 3.5 with all its text encoders, and 3 without T5."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.stable_diffusion import TOKENIZER, autoencoder, clip, decode, tokenizer
from families.vocabulary import t5_encoder, t5_tokenizer

SIZE, WIDTH = 64, 96


def make(whole: bool, folder: Path) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=64,
        pooled_projection_dim=32 + 48,
        pos_embed_max_size=16,
        dual_attention_layers=(0, 1) if whole else (),
        qk_norm="rms_norm" if whole else None,
    ).eval()
    vae = autoencoder(
        latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer,
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae,
        clip(32, projects=True),
        tokenizer(),
        clip(48, projects=True),
        tokenizer(),
        t5_encoder(WIDTH) if whole else None,
        t5_tokenizer() if whole else None,
    )
    pipe.save_pretrained(folder)
    for part in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / part)
        shutil.copytree(TOKENIZER, folder / part)
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    return pipe(
        prompt,
        negative_prompt=negative,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        output_type="latent",
    ).images


CASES = [
    Case("SD 3.5", lambda folder: make(True, folder), latents, decode, size=SIZE, schedule="normal"),
    Case("SD 3 without T5", lambda folder: make(False, folder), latents, decode, size=SIZE, schedule="normal"),
]
