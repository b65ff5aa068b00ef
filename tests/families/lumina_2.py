"""Lumina 2, whose pipeline announces only what is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.language import WIDTH, gemma, gemma_tokenizer, lively
from families.stable_diffusion import autoencoder, decode

HEIGHT = 32


def make(folder: Path) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=16,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 32, 32),
        cap_feat_dim=WIDTH,
    )
    vae = autoencoder(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0)
    pipe = diffusers.Lumina2Pipeline(lively(transformer), scheduler, vae, gemma(), gemma_tokenizer())
    pipe.save_pretrained(folder)
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    return pipe(
        prompt,
        negative_prompt=negative,
        height=HEIGHT,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        output_type="latent",
    ).images


CASES = [Case("Lumina 2", make, latents, decode, height=HEIGHT)]
