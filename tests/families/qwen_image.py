"""Qwen-Image: norm-kept guidance per patch, levels that end at a terminal one, an autoencoder of films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.language import WIDTH, lively, qwen_tokenizer, qwen_vl

HEIGHT = 32


def make(folder: Path, terminal: float | None = 0.02) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=terminal
    )
    pipe = diffusers.QwenImagePipeline(scheduler, vae, qwen_vl(), qwen_tokenizer(), lively(transformer))
    pipe.save_pretrained(folder)
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    tokens = pipe(
        prompt,
        negative_prompt=negative,
        height=HEIGHT,
        width=64,
        num_inference_steps=STEPS,
        true_cfg_scale=3.0,
        generator=generator(),
        output_type="latent",
    ).images
    return pipe._unpack_latents(tokens, HEIGHT, 64, pipe.vae_scale_factor)[:, :, 0]


def decode(pipe: Any, samples: Tensor) -> np.ndarray:
    torch, config = library("torch"), pipe.vae.config
    mean, deviation = (
        torch.tensor(numbers)[:, None, None, None] for numbers in (config.latents_mean, config.latents_std)
    )
    signal = pipe.vae.decode(samples[:, :, None] * deviation + mean).sample[:, :, 0]
    return (signal / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


CASES = [Case("Qwen-Image", make, latents, decode, height=HEIGHT)]
