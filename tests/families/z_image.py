"""Z-Image, whose pipeline writes guidance as c + g (c - u)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.language import WIDTH, lively, qwen3, qwen_tokenizer
from families.stable_diffusion import autoencoder, decode

HEIGHT, GUIDANCE = 32, 3.0


def make(folder: Path) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    vae = autoencoder(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.ZImagePipeline(scheduler, vae, qwen3(), qwen_tokenizer(), lively(transformer))
    pipe.save_pretrained(folder)
    return pipe


def latents(pipe: Any, prompt: str, negative: str, guidance: float = GUIDANCE) -> Tensor:
    return pipe(
        prompt,
        negative_prompt=negative,
        height=HEIGHT,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=guidance - 1,
        generator=generator(),
        output_type="latent",
    ).images


def unguided(pipe: Any, prompt: str, negative: str) -> Tensor:
    return latents(pipe, prompt, negative, guidance=1.0)


CASES = [
    Case("Z-Image", make, latents, decode, height=HEIGHT, guidance=GUIDANCE),
    Case("Z-Image Turbo, unguided", make, unguided, decode, height=HEIGHT, guidance=1.0, negative=False),
]
